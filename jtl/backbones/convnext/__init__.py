"""ConvNeXt: network, config and names."""
