"""Test-time adaptation: a model that adapts to a stream of unlabelled batches."""
