"""Tasks, each with a head, a loss, metrics and the decoding of predictions, as one `Task`."""

from jtl.tasks.causal_lm import causal_lm
from jtl.tasks.classification import classification
from jtl.tasks.ctc import best_path, ctc, ctc_loss
from jtl.tasks.detection import detection, detection_loss, true_boxes
from jtl.tasks.multi_label import multi_label
from jtl.tasks.qa import best_span, qa, span_loss
from jtl.tasks.regression import regression
from jtl.tasks.segmentation import segmentation
from jtl.tasks.tagging import tagging
from jtl.tasks.task import Task
from jtl.tasks.together import together
from jtl.tasks.uncertainty import uncertainty_weighted

__all__ = [
    "Task",
    "best_path",
    "best_span",
    "causal_lm",
    "classification",
    "ctc",
    "ctc_loss",
    "detection",
    "detection_loss",
    "multi_label",
    "qa",
    "regression",
    "segmentation",
    "span_loss",
    "tagging",
    "together",
    "true_boxes",
    "uncertainty_weighted",
]
