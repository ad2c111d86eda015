"""Checkpoints of a run: written in the background, sealed with checksums, pruned."""
