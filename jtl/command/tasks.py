"""The tasks of `jtl finetune`, by the name of its option, and the one of a saved network."""

from jtl.command.class_task import CLASSES
from jtl.command.number_task import NUMBERS
from jtl.command.task import Task
from jtl.command.unit import PROBLEM
from jtl.pretrained.load import Pretrained

TASKS: dict[str, Task] = {"classification": CLASSES, "regression": NUMBERS}


def task_of(loaded: Pretrained) -> Task:
    """Returns the task of a network: one output is a number, unless its config says otherwise, as in transformers."""
    single = loaded.labels is not None and len(loaded.labels) == 1
    return NUMBERS if single and loaded.config.extra.get(PROBLEM) in (None, "regression") else CLASSES
