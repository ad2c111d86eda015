"""The public data sets that can be fetched, with the addresses of their files and the functions that convert them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jtl.datasets import convert
from jtl.datasets.fetch import File


class Entry(NamedTuple):
    """A data set.

    Args:
      files: the files to fetch.
      write: `write(files, folder)` writes the files that the recipes read.
      holds: the content, in words.
      terms: the authors, and the terms of use.
    """

    files: tuple[File, ...]
    write: Callable[[Sequence[Path], Path], None]
    holds: str
    terms: str


_USPS = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass"
_TREC = "https://cogcomp.seas.upenn.edu/Data/QA/QC"
_RESNETS = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
_WEIGHTS = ("resnet20-12fca82f", "resnet32-d509ac18", "resnet44-014dd654", "resnet56-4bfd9763")

CATALOGUE = {
    "cifar_resnet": Entry(
        tuple(File(f"{_RESNETS}/{name}.th", f"sha256:{name.rsplit('-', 1)[1]}") for name in _WEIGHTS),
        convert.cifar_resnet,
        "CIFAR-10 weights of ResNet-20, 32, 44 and 56",
        "Idelbayev, BSD 2-Clause",
    ),
    "hymenoptera": Entry(
        (File("https://download.pytorch.org/tutorial/hymenoptera_data.zip"),),
        convert.hymenoptera,
        "photos of ants and bees, 244 to train on and 153 to validate",
        "PyTorch's tutorial on transfer learning, a part of ImageNet: research use",
    ),
    "spoken_digits": Entry(
        (File("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"),),
        convert.spoken_digits,
        "3,000 spoken digits of six speakers, 8 kHz",
        "Jakobovski et al., CC BY-SA 4.0",
    ),
    "trec": Entry(
        (
            File(f"{_TREC}/train_5500.label", "md5:073462e3fcefaae31e00edb1f18d2d02"),
            File(f"{_TREC}/TREC_10.label", "md5:323a3554401d86e650717e2d2f942589"),
        ),
        convert.trec,
        "5,452 and 500 questions of six types",
        "Li and Roth, Learning Question Classifiers, 2002",
    ),
    "usps": Entry(
        (
            File(f"{_USPS}/usps.bz2", "md5:ec16c51db3855ca6c91edd34d0e9b197"),
            File(f"{_USPS}/usps.t.bz2", "md5:8ea070ee2aca1ac39742fdd1ef5ed118"),
        ),
        convert.usps,
        "7,291 and 2,007 handwritten digits, 16x16",
        "Hull, A Database for Handwritten Text Recognition Research, 1994",
    ),
}
"""The data sets by their names on the command line."""
