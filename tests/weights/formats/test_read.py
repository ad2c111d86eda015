"""Which reader a path gets, and what a path without weights is told."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.weights import WeightFileError, read

ONE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
TWO = {"b": np.arange(4, dtype=np.int64)}


def test_the_content_decides_not_the_name(tmp_path):
    save_file(ONE, tmp_path / "x.bin")
    np.savez(tmp_path / "y.npz", **TWO)
    (tmp_path / "y.npz").rename(tmp_path / "y.safetensors")
    np.testing.assert_array_equal(read(tmp_path / "x.bin")["w"], ONE["w"])
    np.testing.assert_array_equal(read(str(tmp_path / "y.safetensors"))["b"], TWO["b"])


def test_a_header_length_that_looks_like_another_format_is_no_obstacle(tmp_path):
    for length in range(100, 400):
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
        path = tmp_path / "x.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + header + np.float32(2.5).tobytes())
        assert read(path)["w"] == 2.5


def write_index(folder, weight_map):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 56}, "weight_map": weight_map}))
    return path


def test_shards_are_read_by_their_index(tmp_path):
    save_file(ONE, tmp_path / "one.safetensors")
    save_file(TWO, tmp_path / "two.safetensors")
    path = write_index(tmp_path, {"b": "two.safetensors", "w": "one.safetensors"})
    for place in (path, tmp_path):
        tensors = read(place)
        assert list(tensors) == ["b", "w"]
        np.testing.assert_array_equal(tensors["w"], ONE["w"])
        np.testing.assert_array_equal(tensors["b"], TWO["b"])
    with pytest.raises(WeightFileError, match=r"'one.safetensors' lacks 'b' and also holds 'w'"):
        read(write_index(tmp_path, {"b": "one.safetensors"}))
    with pytest.raises(FileNotFoundError, match=r"are absent: 'three.safetensors'"):
        read(write_index(tmp_path, {"b": "three.safetensors"}))


@pytest.mark.parametrize("shard", ["../one.safetensors", "/one.safetensors", "a/one.safetensors", "..", "", 3])
def test_an_index_may_not_leave_its_folder(tmp_path, shard):
    (tmp_path / "folder").mkdir()
    save_file(ONE, tmp_path / "one.safetensors")
    with pytest.raises(WeightFileError, match="must be the name of a file beside the index"):
        read(write_index(tmp_path / "folder", {"w": shard}))


def test_an_index_of_files_without_number_is_refused_before_any_is_looked_for(tmp_path):
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": {f"w{i}": f"{i}" for i in range(5000)}}))
    with pytest.raises(WeightFileError, match="the index names 5000 files; at most 4096 are read"):
        read(tmp_path / "x.index.json")


def test_a_folder_with_one_weight_file_or_several(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no weights: nothing"):
        read(tmp_path)
    save_file(ONE, tmp_path / "epoch1.safetensors")
    assert list(read(tmp_path)) == ["w"]
    save_file(ONE, tmp_path / "epoch2.safetensors")
    with pytest.raises(FileNotFoundError, match=r"several weight files; name one of them: epoch1.*epoch2"):
        read(tmp_path)
    save_file(TWO, tmp_path / "model.safetensors")
    assert list(read(tmp_path)) == ["b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89HDF\r\n\x1a\n....", "HDF5"),
        (b"\x80\x04\x95....", "bare pickle"),
        (b"\x93NUMPY\x01\x00", "numpy.savez"),
        (b"hello world", "is text: 'hello world'"),
        (b"hello\0world", "as no weight file does"),
        (b'{"a": 1}', "no index of weights"),
    ],
)
def test_other_files_are_told_what_they_are(tmp_path, data, message):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(WeightFileError, match=message) as caught:
        read(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


def test_what_is_absent_or_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "x"))):
        read(tmp_path / "x")
    with pytest.raises(WeightFileError, match="no regular file"):
        read("/dev/zero")
    save_file(ONE, tmp_path / "x")
    with pytest.raises(WeightFileError, match="within='a' only serves PyTorch files"):
        read(tmp_path / "x", within="a")
    with pytest.raises(KeyError, match="holds no tensor 'nothing'"):
        read(tmp_path / "x")["nothing"]


def test_the_readers_never_import_pickle_or_another_framework():
    folder = Path(__file__).resolve().parents[3]
    for source in (folder / "jtl" / "weights").glob("*.py"):
        assert not re.search(r"^\s*(import|from) (pickle|torch|tensorflow)\b", source.read_text(), re.MULTILINE)
    code = "import sys, jtl.weights; print(sorted({'torch', 'tensorflow', 'jax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "tensorflow" not in done.stdout
