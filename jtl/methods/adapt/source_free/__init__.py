"""Adaptation to a target without the source's data."""
