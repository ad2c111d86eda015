"""The task of `jtl finetune` whose labels are numbers."""

from functools import partial

import numpy as np

from jtl.command import number_report
from jtl.command.number_head import crossed_ridge, ridge_by
from jtl.command.number_labels import number_labels
from jtl.command.number_scores import finite, scored_numbers
from jtl.command.predictions import number_columns, number_words
from jtl.command.settings import Settings
from jtl.command.source import Examples
from jtl.command.task import Plan, Report, Task
from jtl.command.unit import in_training, in_units
from jtl.methods.finetune.finetune import evaluation
from jtl.tasks.regression import regression

FINE = 1e-3
"""The outputs' resolution in float32 must be finer than this share of the labels' standard deviation."""


def plan(settings: Settings, train: Examples) -> Plan:
    """Returns ridge regression for the head, the squared error for training, and the RMSE for the choice.

    Labels are learned as `(y − centre) / scale`, with the mean and the standard deviation of the training examples.

    Raises:
      ValueError: for training labels that are all equal, or too large beside their spread for float32.
    """
    (name,), y = train.classes, train.labels
    centre, scale = float(y.mean()), float(y.std())
    if not scale > 0:
        raise ValueError(f"all {len(y)} training examples have the {name!r} {y[0]:g}: there is nothing to learn")
    if np.abs(y).max() * np.finfo(np.float32).eps > FINE * scale:
        raise ValueError(
            f"the numbers {name!r} are about {centre:g} and differ by about {scale:.3g}, which float32 cannot tell"
            " apart well: subtract a constant from them"
        )
    task = regression(centre=centre, scale=scale)
    return Plan(
        told=f"{name!r} from {y.min():g} to {y.max():g}",
        notes=[],
        about={"centre": centre, "scale": scale},
        prepared=partial(in_training, centre=centre, scale=scale),
        crossed=partial(crossed_ridge, seed=settings.seed, centre=centre, scale=scale),
        head_by=partial(ridge_by, centre=centre, scale=scale),
        loss=task.loss,
        metrics=task.metrics,
        judge=lambda net: evaluation(net, task.loss, metrics=task.metrics),
        measure="rmse",
        watch="rmse",
        mode="min",
    )


NUMBERS = Task(
    labels=number_labels,
    plan=plan,
    finished=in_units,
    predicted=finite,
    top=None,
    words=number_words,
    columns=number_columns,
    scored=scored_numbers,
    report=Report(number_report.headline, number_report.tables, number_report.examples),
)
