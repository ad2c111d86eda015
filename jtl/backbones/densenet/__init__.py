"""DenseNet: network, config and names."""
