"""Metrics as pure functions: one value per example, sums that add up over batches, or numbers of all rows."""

from jtl.metrics.calibration import calibration_error
from jtl.metrics.classification import accuracy, confusion_matrix, top_k
from jtl.metrics.confusion import (
    balanced_accuracy,
    cohen_kappa,
    confusion,
    f1,
    macro_f1,
    matthews,
    precision,
    recall,
)
from jtl.metrics.detection import Boxes, box_iou, mean_average_precision
from jtl.metrics.edit_distance import edit_distance, error_rate
from jtl.metrics.entities import entity_f1
from jtl.metrics.mean_iou import mean_iou
from jtl.metrics.ranking import auroc, average_precision, pearson, spearman
from jtl.metrics.regression import r2
from jtl.metrics.retrieval import retrieval
from jtl.metrics.squad import squad

__all__ = [
    "Boxes",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "box_iou",
    "calibration_error",
    "cohen_kappa",
    "confusion",
    "confusion_matrix",
    "edit_distance",
    "entity_f1",
    "error_rate",
    "f1",
    "macro_f1",
    "matthews",
    "mean_average_precision",
    "mean_iou",
    "pearson",
    "precision",
    "r2",
    "recall",
    "retrieval",
    "spearman",
    "squad",
    "top_k",
]
