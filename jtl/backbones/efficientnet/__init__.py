"""EfficientNet: network, config and names."""
