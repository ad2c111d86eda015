"""The splits of CIFAR-100 are disjoint, and by CIFAR's own names those that were published."""

import numpy as np
import pytest

from jtl import data
from jtl.data.cifar_splits import SUPERCLASS


@pytest.mark.parametrize("split", [data.cifar_fs(), data.fc100()])
def test_every_class_is_in_one_part(split):
    assert sorted(np.concatenate(split)) == list(range(100))


def test_fc100_shares_no_superclass_between_parts():
    parts = [set(SUPERCLASS[labels]) for labels in data.fc100()]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert (np.bincount(SUPERCLASS) == 5).all()


def test_names_are_the_published_ones(real_data):
    """FC100's test superclasses: aquatic mammals, insects, medium mammals, people."""
    names = np.load(real_data("cifar100.npz"))["names"]
    people = {"baby", "boy", "girl", "man", "woman"}
    aquatic = {"beaver", "dolphin", "otter", "seal", "whale"}
    insects = {"bee", "beetle", "butterfly", "caterpillar", "cockroach"}
    medium = {"fox", "porcupine", "possum", "raccoon", "skunk"}
    assert set(names[data.fc100().test]) == people | aquatic | insects | medium
    assert set(names[SUPERCLASS == 17]) == {"maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"}
    fs = data.cifar_fs()
    assert {"baby", "bed", "worm", "rocket", "plain", "leopard"} <= set(names[fs.test])
    assert {"otter", "sea", "cattle", "camel", "maple_tree"} <= set(names[fs.val])
    assert {"cloud", "train", "apple", "porcupine"} <= set(names[fs.train])
