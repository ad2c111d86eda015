"""Domain adaptation: a supervised loss on the source and any sum of alignments."""
