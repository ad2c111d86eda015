"""Inception-v3: network, config and names."""
