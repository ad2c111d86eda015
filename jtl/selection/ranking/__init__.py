"""Transferability scores: how well a model's features suit a data set, without training."""
