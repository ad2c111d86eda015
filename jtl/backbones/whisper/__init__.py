"""Whisper's encoder: network, config and names."""
