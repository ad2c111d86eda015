"""GPT-2: network, config and names."""
