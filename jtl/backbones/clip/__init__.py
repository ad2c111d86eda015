"""CLIP: network, config and names."""
