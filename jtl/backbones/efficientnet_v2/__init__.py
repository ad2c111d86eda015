"""EfficientNetV2: network, config and names."""
