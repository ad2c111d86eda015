"""ResNet and its variants: network, config and names."""
