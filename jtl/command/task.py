"""What the commands do differently for classes and for numbers, as one object of functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jtl.command.class_labels import Reader
from jtl.command.head import Crossed
from jtl.command.predictions import Columns
from jtl.command.settings import Settings
from jtl.command.source import Examples
from jtl.model import Model, Variables
from jtl.objective import Objective
from jtl.pretrained.load import Pretrained


class Plan(NamedTuple):
    """How one run learns from its training examples.

    Args:
      told: the labels in words.
      notes: notes for the user about them.
      about: entries of `run.json`, which `Task.scored` reads.
      prepared: completes the loaded network.
      crossed: fits the head on features of examples, with a penalty chosen by folds.
      head_by: fits the head on features of `train`, with a penalty chosen by those of `val`.
      loss: `loss(output, y)`.
      metrics: the metrics of training steps.
      judge: the objective of validation, from the network.
      measure: the name of the metric that is shown.
      watch: the name of the metric that chooses.
      mode: whether the largest or the smallest is best.
    """

    told: str
    notes: list[str]
    about: Mapping[str, Any]
    prepared: Callable[[Pretrained], Pretrained]
    crossed: Callable[[Pretrained, np.ndarray, Examples], Crossed]
    head_by: Callable[[Pretrained, dict[str, np.ndarray], dict[str, Examples]], Variables]
    loss: Callable[[Any, Any], Any]
    metrics: Mapping[str, Any]
    judge: Callable[[Model], Objective]
    measure: str
    watch: str
    mode: Literal["min", "max"]


class Report(NamedTuple):
    """What a report shows of a task.

    Args:
      headline: from the scores of test and validation examples, and what the latter are: the end of the title, the
        large number, and the sentence below it.
      tables: adds tables and figures of these scores.
      examples: adds examples, from the scores and items of the test examples.
    """

    headline: Callable[[Any, Any, str], tuple[str, str, str]]
    tables: Callable[[Any, Any, Any], None]
    examples: Callable[[Any, Any, Sequence[Any]], None]


class Task(NamedTuple):
    """What a network predicts, and all that depends on it.

    Args:
      labels: reads the labels of a table.
      plan: makes the plan of a run from its settings and training examples.
      finished: the network as it is saved.
      predicted: from outputs [examples, names] to the values that are shown, of the same shape.
      top: how many of these are shown by default; None if there is no choice.
      words: one example's values in words.
      columns: the values of all examples as columns of a table.
      scored: scores of outputs, from labels, names, and the entries of `run.json`.
      report: its part of the report.
    """

    labels: Reader
    plan: Callable[[Settings, Examples], Plan]
    finished: Callable[[Pretrained], Pretrained]
    predicted: Callable[[np.ndarray], np.ndarray]
    top: int | None
    words: Callable[[Any, Sequence[str], int | None], str]
    columns: Callable[[Any, Sequence[str]], Columns]
    scored: Callable[[np.ndarray, np.ndarray, Sequence[str], Mapping[str, Any]], Any]
    report: Report
