"""VGG: network, config and names."""
