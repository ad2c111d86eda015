"""Recurrent networks: network, config and names."""
