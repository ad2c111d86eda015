"""Data as a function of the step: `dataset[step] -> batch`, shuffled each epoch, sliced per process."""

from jtl.data import appearance, augment, mixing, policies, spectrograms, waves
from jtl.data.arrays import arrays
from jtl.data.balanced import balanced
from jtl.data.cifar_splits import ClassSplit, cifar_fs, fc100
from jtl.data.corruptions import corrupt
from jtl.data.episodes import episodes, sample, split_classes
from jtl.data.files import files
from jtl.data.folder import folder
from jtl.data.lengths import by_length
from jtl.data.omniglot_split import omniglot_vinyals
from jtl.data.pair import pair
from jtl.data.pipeline import Dataset, Source
from jtl.data.prefetch import prefetch
from jtl.data.side_by_side import several
from jtl.data.sinusoids import sample_sinusoids, sinusoids
from jtl.data.subsets import split, subset
from jtl.data.tfds import tfds
from jtl.data.varied_episodes import Bank, bank, bank_of, sample_varied, varied_episodes

__all__ = [
    "Bank",
    "ClassSplit",
    "Dataset",
    "Source",
    "appearance",
    "arrays",
    "augment",
    "balanced",
    "bank",
    "bank_of",
    "by_length",
    "cifar_fs",
    "corrupt",
    "episodes",
    "fc100",
    "files",
    "folder",
    "mixing",
    "omniglot_vinyals",
    "pair",
    "policies",
    "prefetch",
    "sample",
    "sample_sinusoids",
    "sample_varied",
    "several",
    "sinusoids",
    "spectrograms",
    "split",
    "split_classes",
    "subset",
    "tfds",
    "varied_episodes",
    "waves",
]
