"""AlexNet: network, config and names."""
