"""The class splits of CIFAR-100 for few-shot learning: CIFAR-FS and FC100, as labels."""

from typing import NamedTuple

import numpy as np


class ClassSplit(NamedTuple):
    """Labels of disjoint sets of classes.

    Args:
      train: the classes for meta-training.
      val: the classes for model selection.
      test: the classes for the final result.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def _labels(listed: str) -> np.ndarray:
    return np.array(listed.split(), np.int64)


SUPERCLASS = _labels(
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 "
    "19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 "
    "13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"
)
"""The superclass of each of CIFAR-100's labels; labels are in the alphabetical order of their names."""


def cifar_fs() -> ClassSplit:
    """CIFAR-FS: 64, 16 and 20 of CIFAR-100's classes, drawn at random once and published.

    Example:
      >>> import jtl
      >>> [len(part) for part in jtl.data.cifar_fs()]
      [64, 16, 20]

    Bertinetto et al., Meta-learning with Differentiable Closed-form Solvers, 2018, arXiv 1805.08136.
    """
    val = _labels("4 7 14 15 19 26 27 32 40 47 48 55 71 73 87 89")
    test = _labels("2 5 8 21 34 42 46 58 60 62 69 70 77 83 84 86 94 95 98 99")
    return ClassSplit(np.setdiff1d(np.arange(100), [*val, *test]), val, test)


def fc100() -> ClassSplit:
    """FC100: 60, 20 and 20 of CIFAR-100's classes, from 12, 4 and 4 superclasses, so that parts have less in common.

    Example:
      >>> import jtl
      >>> [len(part) for part in jtl.data.fc100()]
      [60, 20, 20]

    Oreshkin et al., TADAM: Task Dependent Adaptive Metric for Improved Few-shot Learning, 2018, arXiv 1805.10123.
    """
    val, test = (np.flatnonzero(np.isin(SUPERCLASS, which)) for which in ((8, 11, 13, 16), (0, 7, 12, 14)))
    return ClassSplit(np.setdiff1d(np.arange(100), [*val, *test]), val, test)
