"""Big Transfer (BiT) ResNets: network, config and names."""
