"""Metrics as pure functions: one value per example, or sums that add up over batches."""

from jtl.metrics.classification import accuracy, confusion_matrix, macro_f1, top_k

__all__ = ["accuracy", "confusion_matrix", "macro_f1", "top_k"]
