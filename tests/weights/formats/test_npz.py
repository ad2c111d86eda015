""".npz against numpy.load."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from jtl.weights import WeightFileError, read


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_everything_numpy_writes_is_read_alike(tmp_path, save):
    rng = np.random.default_rng(0)
    saved = {
        f"a/{s}": rng.integers(0, 100, (3, 4)).astype(s)
        for s in ["?", "u1", "i1", "<u2", ">i4", "<i8", "<f2", ">f4", "<f8", "<c8", "c16"]
    }
    saved["fortran"] = np.asfortranarray(rng.normal(size=(3, 4, 5)))
    saved["empty"] = np.zeros((0, 3))
    saved["scalar"] = np.float32(1.5)
    save(tmp_path / "x.npz", **saved)
    tensors = read(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as reference:
        assert list(tensors) == reference.files
        for name, value in tensors.items():
            np.testing.assert_array_equal(value, reference[name], err_msg=name)
            assert value.dtype == reference[name].dtype.newbyteorder("=")
            assert tensors.entry(name).shape == value.shape


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_the_list_of_members_is_read_once_and_not_for_each(tmp_path, save, monkeypatch):
    """Else the work grows with the square of the arrays: 2,000 took half a minute to open."""
    save(tmp_path / "x.npz", **{f"a{i}": np.full(2, i) for i in range(20)})
    lists, plain = [], zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda self, path: lists.append(path) or plain(self, path))
    tensors = read(tmp_path / "x.npz")
    assert [int(tensors[f"a{i}"][1]) for i in range(20)] == list(range(20))
    assert len(lists) == 2  # to tell a PyTorch file from an .npz, and to read it


def test_a_longer_list_of_members_is_refused_before_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for i in range(400):  # of long names: the list's bytes are what counts
            archive.writestr(f"{i}".zfill(6000) + ".npy", b"")
    with pytest.raises(WeightFileError, match=r"lists its members in 24\d{5} bytes; at most 2097152 are read"):
        read(tmp_path / "x.npz")


def test_two_byte_voids_are_bfloat16_as_jax_writes_them(tmp_path):
    x = np.linspace(0, 1, 5).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", x=x)
    assert read(tmp_path / "x.npz")["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read(tmp_path / "x.npz")["x"], x)


def test_objects_texts_and_bombs_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", good=np.ones(2), bad=np.array([{}], dtype=object))
    with pytest.raises(WeightFileError, match=r"bad.npy: holds Python objects"):
        read(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", names=np.array(["a"]))
    with pytest.raises(WeightFileError, match=r"names.npy: has number type"):
        read(tmp_path / "x.npz")
    np.savez_compressed(tmp_path / "x.npz", zeros=np.zeros(40 << 20, np.uint8))
    with pytest.raises(WeightFileError, match=r"would grow from .* to 41943168 bytes"):
        read(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightFileError, match=r"is a zip of 'readme.txt'"):
        read(tmp_path / "x.npz")


def test_a_changed_compressed_array_fails_its_checksum(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=500))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(WeightFileError, match=r"x.npy: cannot be read"):
        read(tmp_path / "x.npz")["x"]


def test_members_that_grow_without_measure_together_are_refused(tmp_path):
    """60 of 15.6 MB of zeros were 898 MB, from a file of 0.92 MB; each by itself is small."""
    header = b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2 << 20},), }}".encode()
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(10):
            archive.writestr(f"{i}.npy", header.ljust(127) + b"\n" + bytes(2 << 20))
    with pytest.raises(WeightFileError, match=r"x\.npz: its members would grow from \d+ to 20972800 bytes together"):
        read(tmp_path / "x.npz")


def test_members_that_are_one_run_of_bytes_are_refused(tmp_path):
    """A list of members may name the same bytes again and again."""
    path = tmp_path / "x.npz"
    np.savez(path, a0=np.zeros(1000), a1=np.zeros(1000), a2=np.zeros(1000))
    held = path.read_bytes()
    start = held.index(b"PK\x01\x02")
    end = held.index(b"PK\x01\x02", start + 4)
    first = held.index(b"PK\x03\x04", 4)
    shift = first - start  # all but the first member cut out of the file
    listed = bytearray(held[start:])
    for at in range(0, 3 * (end - start), end - start):
        listed[at + 42 : at + 46] = bytes(4)  # where the member starts
    tail = len(listed) - 22
    listed[tail + 16 : tail + 20] = (start + shift).to_bytes(4, "little")
    path.write_bytes(held[:first] + bytes(listed))
    with pytest.raises(WeightFileError, match=r"lists members of 24\d{3} bytes together, and has .*; they overlap"):
        read(path)
