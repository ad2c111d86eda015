"""Scores that choose a checkpoint or a method without labels of the target."""
