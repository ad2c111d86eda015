"""Metrics as pure functions: one value per example, or sums that add up over batches."""

from jtl.metrics.classification import accuracy, confusion_matrix, macro_f1, top_k
from jtl.metrics.detection import Boxes, box_iou, mean_average_precision
from jtl.metrics.edit_distance import edit_distance, error_rate
from jtl.metrics.entities import entity_f1
from jtl.metrics.mean_iou import mean_iou
from jtl.metrics.squad import squad

__all__ = [
    "Boxes",
    "accuracy",
    "box_iou",
    "confusion_matrix",
    "edit_distance",
    "entity_f1",
    "error_rate",
    "macro_f1",
    "mean_average_precision",
    "mean_iou",
    "squad",
    "top_k",
]
