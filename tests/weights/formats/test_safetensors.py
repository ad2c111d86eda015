"""safetensors against the package of that name."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from jtl.weights import WeightFileError, read

DTYPES = [
    "?",
    "u1",
    "i1",
    "<u2",
    "<i2",
    "<u4",
    "<i4",
    "<u8",
    "<i8",
    "<f2",
    "<f4",
    "<f8",
    "<c8",
    ml_dtypes.bfloat16,
]


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def one(**changes):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def test_everything_the_package_writes_is_read_alike(tmp_path):
    rng = np.random.default_rng(0)
    saved = {f"t{i}": rng.integers(0, 2 if spec == "?" else 100, (3, i)).astype(spec) for i, spec in enumerate(DTYPES)}
    saved["scalar"] = np.array(1.5, np.float32)
    save_file(saved, tmp_path / "x.safetensors", metadata={"format": "np"})
    tensors = read(tmp_path / "x.safetensors")
    assert tensors.metadata == {"format": "np"}
    assert tensors.nbytes == sum(v.nbytes for v in saved.values())
    with safe_open(tmp_path / "x.safetensors", "np") as reference:
        assert set(tensors) == set(reference.keys())
        for name, value in tensors.items():
            expected = reference.get_tensor(name)
            assert value.dtype == expected.dtype
            assert value.shape == expected.shape == tensors.entry(name).shape
            assert value.tobytes() == expected.tobytes()


def test_arrays_are_aligned_so_that_jax_needs_no_copy(tmp_path):
    save_file({"a": np.ones(3, np.float32), "b": np.ones(5, np.float32)}, tmp_path / "x.safetensors")
    assert all(value.ctypes.data % 64 == 0 for value in read(tmp_path / "x.safetensors").values())


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (one(data_offsets=[0, 4]), b"1234", "needs 8 bytes, but its data_offsets span 4"),
        (one(), b"1234", "end at byte .*, the file at"),
        (one(), b"123456789", "end at byte .*, the file at"),
        (one(data_offsets=[4, 12]), b"1" * 12, "leaves a gap"),
        ({**one(), "y": one()["x"]}, b"1" * 8, "overlaps"),
        (one(data_offsets=[8, 0]), b"1" * 8, "wrong data_offsets"),
        (one(data_offsets=[0, True]), b"1" * 8, "wrong data_offsets"),
        (one(shape=[-2]), b"1" * 8, "size of -2"),
        (one(shape=[1 << 70, 0]), b"", "no memory holds"),
        (one(shape=[1] * 99), b"1" * 8, "99 dimensions"),
        (one(shape=2), b"1" * 8, "not a list"),
        (one(dtype="F4"), b"1" * 8, "dtype 'F4'; those read are"),
        (one(more=1), b"1" * 8, "exactly dtype, shape and data_offsets"),
        ({**one(), "__metadata__": {"a": 1}}, b"1" * 8, "object of strings"),
        (b'{"x": 1, "x": 2}', b"", "key 'x' twice"),
        (b'{"a":' * 5000, b"", "JSON"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, b"", "nested too deeply|JSON cannot"),
        (b"{\xff}", b"", "JSON cannot be read"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, data, message):
    with pytest.raises(WeightFileError, match=message):
        read(write(tmp_path / "x.safetensors", header, data))


def test_a_header_longer_than_the_file_or_the_limit_is_refused(tmp_path):
    path = write(tmp_path / "x.safetensors", one(), b"1" * 8)
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(WeightFileError, match="claims 1099511627776 bytes, but the file has"):
        read(path)
    with open(path, "wb") as file:  # a sparse file: no disk is used
        file.write((32 << 20).to_bytes(8, "little") + b"{")
        file.truncate(40 << 20)
    with pytest.raises(WeightFileError, match="at most 8388608 are read"):
        read(path)


def test_more_tensors_than_a_network_has_are_refused_before_they_are_looked_at(tmp_path):
    """To open 250,000 took five seconds, which is how long a wrong one at their end took to be told."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    with pytest.raises(WeightFileError, match="names 30001 tensors; at most 30000 are read"):
        read(write(tmp_path / "x.safetensors", {str(i): empty for i in range(30_001)}))
