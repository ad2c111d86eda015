"""Building blocks that several networks share: convolutions, normalisation, attention, pooling."""
