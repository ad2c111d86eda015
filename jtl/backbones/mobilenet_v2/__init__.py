"""MobileNetV2: network, config and names."""
