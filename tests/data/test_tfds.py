"""TFDS without TensorFlow, on the real MNIST."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtl import data

ROOT = Path(__file__).resolve().parents[2]


def test_mnist(real_data):
    ds = data.tfds("mnist", "test", real_data("tfds"), batch_size=64, seed=2)
    assert ds.size == 10_000
    assert ds.classes == tuple("0123456789")
    batch = ds[0]
    assert batch["x"].shape == (64, 28, 28, 1)
    assert batch["x"].dtype == np.uint8
    assert batch["y"].dtype == np.int32
    again = data.tfds("mnist:3.0.1", "test", real_data("tfds"), batch_size=64, seed=2)
    assert (again[0]["x"] == batch["x"]).all()
    assert (again[1]["y"] != batch["y"]).any()


def test_a_part_of_a_split_and_a_transform(real_data):
    half = lambda x, rng: data.images.resize(x, 14)  # noqa: E731
    ds = data.tfds("mnist", "train[:100]", real_data("tfds"), batch_size=50, transform=half)
    assert ds.size == 100
    assert ds[0]["x"].shape == (50, 14, 14, 1)


def test_what_is_missing_is_named_with_what_there_is(real_data, tmp_path):
    root = real_data("tfds")
    with pytest.raises(ValueError, match=r"no split 'validation'; there are \['test', 'train'\]"):
        data.tfds("mnist", "validation", root, batch_size=8)
    with pytest.raises(FileNotFoundError, match=r"no prepared data set 'cifar10'.*there are \[.*'mnist'.*\]"):
        data.tfds("cifar10", "train", root, batch_size=8)
    with pytest.raises(FileNotFoundError, match=r"there are \[\]; pass download=True"):
        data.tfds("mnist", "train", tmp_path / "nowhere", batch_size=8)


def test_no_tensorflow_is_imported(real_data):
    program = (
        "import sys; from jtl import data; "
        f"data.tfds('mnist', 'test', {str(real_data('tfds'))!r}, batch_size=8)[0]; "
        "print('tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_importing_data_loads_no_loader():
    program = "import sys, jtl.data; print([m for m in ('grain', 'tensorflow_datasets', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
