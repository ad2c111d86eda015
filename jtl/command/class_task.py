"""The task of `jtl finetune` whose labels are classes."""

from functools import partial
from typing import Any

from jtl import losses, metrics
from jtl.command import class_report, labels
from jtl.command.class_labels import class_labels
from jtl.command.head import crossed_head, head_by, loss
from jtl.command.predictions import class_columns, class_words
from jtl.command.scores import scored, shares
from jtl.command.settings import Settings
from jtl.command.source import Examples
from jtl.command.task import Plan, Report, Task
from jtl.methods.finetune.finetune import ACCURACY, evaluation

RANK = "accuracy, then loss"
"""With few validation examples, many steps have the same accuracy, and the first of these has hardly learned."""


def plan(settings: Settings, train: Examples) -> Plan:
    """Returns logistic regression for the head, the cross-entropy for training, and the accuracy for the choice."""
    return Plan(
        told=f"{len(train.classes)} classes",
        notes=labels.notes(train.names),
        about={},
        prepared=lambda loaded: loaded,
        crossed=partial(crossed_head, seed=settings.seed, balanced=settings.balanced),
        head_by=partial(head_by, balanced=settings.balanced),
        loss=loss(train, settings.balanced),
        metrics=ACCURACY,
        # Not the loss alone: it grows with confidence even while the accuracy no longer falls.
        judge=lambda net: evaluation(net, metrics={**ACCURACY, RANK: ranked}),
        measure="accuracy",
        watch=RANK,
        mode="max",
    )


def ranked(z: Any, y: Any) -> Any:
    """Returns one number per example whose mean rises with the accuracy, with ties broken by the lower loss."""
    return metrics.accuracy(z, y) - 1e-3 * losses.cross_entropy(z, y)


CLASSES = Task(
    labels=class_labels,
    plan=plan,
    finished=lambda loaded: loaded,
    predicted=shares,
    top=3,
    words=class_words,
    columns=class_columns,
    scored=lambda outputs, labels, names, about: scored(outputs, labels, names),
    report=Report(class_report.headline, class_report.tables, class_report.examples),
)
