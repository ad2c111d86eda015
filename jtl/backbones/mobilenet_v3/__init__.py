"""MobileNetV3: network, config and names."""
