"""TFDS without TensorFlow, on the real MNIST."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtl import data
from jtl.data.tfds import _Records
from jtl.preprocess import pixels

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
    def half(x, rng):
        return pixels.resize(x, 14)

    ds = data.tfds("mnist", "train[:100]", real_data("tfds"), batch_size=50, transform=half)
    assert ds.size == 100
    assert ds[0]["x"].shape == (50, 14, 14, 1)
    both = data.tfds("mnist", "test+train", real_data("tfds"), batch_size=8, shuffle=False)
    assert both.size == 70_000
    assert (both[0]["y"] == data.tfds("mnist", "test", real_data("tfds"), batch_size=8, shuffle=False)[0]["y"]).all()


class Rows:
    """What TFDS gives of texts with their stars."""

    def __init__(self, stars):
        self.stars = stars

    def __getitems__(self, index):
        return [{"text": b"a film", "stars": self.stars[i]} for i in index]


def test_what_is_no_number_is_named():
    def read(stars, transform=None):
        return _Records(Rows(stars), "text", "stars", transform, 2, None, "films").read(np.arange(2), [(0,), (1,)])

    with pytest.raises(TypeError, match=r"feature 'text' has dtype .S6, no numbers: give a transform"):
        read([1, 2])
    with pytest.raises(TypeError, match="feature 'stars' has dtype <U3, no numbers: give a data set with labels"):
        read(["one", "two"], lambda x, rng: np.zeros(3))
    with pytest.raises(ZeroDivisionError) as raised:
        read([1, 2], lambda x, rng: 1 / 0)
    assert raised.value.__notes__ == ["while example 0 was transformed"]
    assert read([1, 2], lambda x, rng: np.zeros(3))["y"].tolist() == [1, 2]


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


PREPARED = """
import functools, http.server, sys, threading
import numpy as np
import tensorflow_datasets as tfds
from jtl import data

root, kind = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
feature = {
    "image": lambda: tfds.features.Image(shape=(4, 4, 1)),
    "tensor": lambda: tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
}[kind]()


class Rows(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        features = tfds.features.FeaturesDict({"image": feature, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, downloads):
        return {"train": self._generate_examples(downloads.download(f"http://127.0.0.1:{server.server_port}/rows.npz"))}

    def _generate_examples(self, path):
        rows = np.load(path)
        for i in range(len(rows["x"])):
            yield i, {"image": rows["x"][i], "label": int(rows["y"][i])}


for _ in range(2):  # made, and found
    found = data.tfds("rows", "train", root + "/tfds", batch_size=10, shuffle=False, download=True)
assert "tensorflow" not in sys.modules
batch = found[0]
np.savez(root + "/read.npz", x=batch["x"], y=batch["y"])
"""


def test_a_data_set_is_downloaded_and_prepared(tmp_path):
    """From a server on this machine; TFDS writes it in an order of its own."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (10, 4, 4, 1), np.uint8), rng.integers(0, 3, 10)
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    made = prepare(tmp_path, "tensor")
    assert made.returncode == 0, made.stderr
    read = np.load(tmp_path / "read.npz")
    assert sorted((*a.ravel(), b) for a, b in zip(*read.values(), strict=True)) == sorted(
        (*a.ravel(), b) for a, b in zip(x, y, strict=True)
    )


def test_what_needs_tensorflow_once_says_so(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.zeros((1, 4, 4, 1), np.uint8), y=np.zeros(1, int))
    made = prepare(tmp_path, "image")
    assert made.returncode == 1
    assert "ImportError: TFDS prepares 'rows' with TensorFlow" in made.stderr


def prepare(folder, kind):
    words = [sys.executable, "-c", PREPARED, str(folder), kind]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
