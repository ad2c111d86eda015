"""Swin Transformer: network, config and names."""
