"""Data as a function of the step: `dataset[step] -> batch`, shuffled each epoch, sliced per process."""

from jtl.data import augment
from jtl.data.arrays import arrays
from jtl.data.corruptions import corrupt
from jtl.data.episodes import episodes, sample, split_classes
from jtl.data.folder import folder
from jtl.data.pair import pair
from jtl.data.pipeline import Dataset, Source
from jtl.data.prefetch import prefetch
from jtl.data.side_by_side import several
from jtl.data.tfds import tfds

__all__ = [
    "Dataset",
    "Source",
    "arrays",
    "augment",
    "corrupt",
    "episodes",
    "folder",
    "pair",
    "prefetch",
    "sample",
    "several",
    "split_classes",
    "tfds",
]
