"""Every path that a user gives: the home folder, and addresses that are none of this machine."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.data import folder
from jtl.model import Variables
from jtl.paths import local
from jtl.preprocess import audio, conll, pixels, squad
from jtl.pretrained.inspect import inspect
from jtl.pretrained.load import Pretrained
from jtl.pretrained.push import push
from jtl.recipes.parts.base import data_root
from jtl.report.figures import curves
from jtl.train.records import read_json_lines

NOTHING = Pretrained(*[None] * len(Pretrained._fields))
"""A network for those who look at the path first."""

TAKERS = {
    "Checkpoints": lambda path: jtl.Checkpoints(path),
    "JsonLines": lambda path: jtl.JsonLines(path),
    "TensorBoard": lambda path: jtl.TensorBoard(path),
    "read_json_lines": read_json_lines,
    "load": lambda path: jtl.load(path, arch="resnet18"),
    "weights.read": lambda path: jtl.weights.read(path),
    "inspect": inspect,
    "peft.load": lambda path: jtl.peft.load(path, NOTHING),
    "peft.save": lambda path: jtl.peft.save(path, NOTHING, Variables({}, {}), jtl.peft.lora(1, (".*",))),
    "push": lambda path: push("me/x", path),
    "folder": lambda path: folder(path, batch_size=1, size=8),
    "decode": pixels.decode,
    "audio": lambda path: audio.read(path, 16000),
    "squad": squad.read,
    "conll": conll.read,
    "curves": lambda path: curves({"a": [1.0]}, path),
    "data_root": lambda path: data_root(Path(path)),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_addresses_of_buckets_are_refused_and_no_folder_is_made(taker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if taker == "TensorBoard":
        pytest.importorskip("tensorboardX")
    for given in ("gs://bucket/run", "s3://bucket/run", "file:///tmp/x"):
        with pytest.raises(ValueError, match=rf"='{given[:2]}.*': jtl reads and writes local files, no {given[:2]}"):
            TAKERS[taker](given)
    assert not list(tmp_path.iterdir())


def test_an_address_that_pathlib_has_shortened_is_told_too(tmp_path):
    with pytest.raises(ValueError, match="directory='gs:/bucket/run': "):
        jtl.Checkpoints(Path("gs://bucket/run"))
    assert local("C:/runs", "path") == Path("C:/runs")  # a drive of Windows
    assert local("a:b/c", "path") == Path("a:b/c")
    with pytest.raises(ValueError, match="path=' ': give a path"):
        local(" ", "path")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert jtl.Checkpoints("~/run").directory == tmp_path / "run"
    record = jtl.JsonLines("~/logs/metrics.jsonl")
    record.start(0)
    record.write(1, "train", {"loss": 0.5})
    record.close()
    assert read_json_lines("~/logs/metrics.jsonl")[0]["loss"] == 0.5
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / "a" / "x.png")
    assert len(folder("~/data", batch_size=1, size=8)) == 1
    assert pixels.decode("~/data/a/x.png").shape == (8, 8, 3)
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    assert list(jtl.weights.read("~/x.npz")) == ["w"]
    assert data_root(Path("~/data")) == tmp_path / "data"
    assert not (tmp_path / "~").exists()


def test_a_full_disk_names_the_file(tmp_path):
    record = jtl.JsonLines("/dev/full")
    record._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115  (closed by close)
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        record.write(1, "train", {"loss": 0.5})
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        record.close()
