"""Loads, saves, inspects and recognises pretrained networks."""
