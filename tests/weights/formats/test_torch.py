"""PyTorch's files against torch.load, in both formats."""

import argparse
import collections
import datetime
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the reference here")

from jtl.weights import WeightFileError, read
from jtl.weights.formats.source import ByteSource
from jtl.weights.formats.torch import _parse

OLD_ZIP = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
    "complex128",
]
NEW_DTYPES = [
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]


def save(value, path, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def bits(tensor):
    """A tensor's bytes in C order; NumPy cannot take all of torch's types."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@OLD_ZIP
@pytest.mark.parametrize("name", DTYPES + NEW_DTYPES)
def test_every_number_type_keeps_its_bits(tmp_path, name, zipped):
    dtype = getattr(torch, name)
    values = torch.linspace(0.5, 7, 24).reshape(2, 3, 4).to(dtype)
    read_back = read(save({"x": values}, tmp_path / "x.pth", zipped))["x"]
    assert read_back.shape == (2, 3, 4)
    assert read_back.dtype.name == name
    assert read_back.tobytes() == bits(values)


@OLD_ZIP
def test_a_module_with_views_shared_storages_and_parameters(tmp_path, zipped):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(5, 6))
    base = torch.randn(6, 8)
    saved = {
        **net.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "base": base,
        "transposed": base.t(),
        "strided": base[1::2, ::3],
        "row": base[3],
        "expanded": base[:1].expand(5, 8),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "step": 3,
    }
    path = save(saved, tmp_path / "x.th", zipped)
    tensors = read(path)
    assert list(tensors) == [k for k, v in saved.items() if isinstance(v, torch.Tensor)]
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, saved[name].detach().resolve_conj().numpy(), err_msg=name)
        assert tensors.entry(name).shape == value.shape


@OLD_ZIP
def test_nested_data_comes_back_as_it_was(tmp_path, zipped):
    saved = {
        "epoch": 7,
        "best": 91.5,
        "none": None,
        "flags": [True, False, (1, -2, 1 << 40, "ä")],
        "shape": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": {"w": torch.arange(3)},
    }
    path = save(saved, tmp_path / "x.pt", zipped)
    tree, _ = _parse(ByteSource(path))
    for key in ("epoch", "best", "none", "flags"):
        assert tree[key] == saved[key]
    assert tree["shape"] == (2, 3)
    assert tree["dtype"].dtype.name == "bfloat16"
    assert tree["device"] == "cpu"
    assert tree["optimizer"]["state"][0]["exp_avg"].shape == (2,)
    assert tree["optimizer"]["param_groups"] == [{"lr": 0.1}]
    np.testing.assert_array_equal(read(path)["w"], [0, 1, 2])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
    torch.save({"w": torch.arange(3), "b": ["ä", 1, 2.5]}, tmp_path / "x.pt", pickle_protocol=protocol)
    np.testing.assert_array_equal(read(tmp_path / "x.pt")["w"], [0, 1, 2])


def test_several_dicts_of_tensors_are_told_apart_by_their_place(tmp_path):
    saved = {"student": {"w": torch.zeros(1)}, "teacher": {"inner": {"w": torch.ones(1)}}}
    path = save(saved, tmp_path / "x.pt")
    with pytest.raises(WeightFileError, match=r"choose one by within=.*'student' \(1 tensors\).*'teacher/inner'"):
        read(path)
    np.testing.assert_array_equal(read(path, within="teacher/inner")["w"], [1])
    with pytest.raises(WeightFileError, match="no dict of tensors at 'pupil'"):
        read(path, within="pupil")


def test_a_score_beside_a_state_dict_is_no_network(tmp_path):
    """As in the checkpoints of PyTorch's own example of ImageNet; beside more at the root it is left."""
    net = {"w": torch.arange(3), "b": torch.arange(2)}
    saved = {"epoch": 3, "state_dict": net, "best_acc1": torch.tensor(76.0), "optimizer": {"state": {}}}
    path = save(saved, tmp_path / "x.pt")
    assert set(read(path)) == {"w", "b"}
    assert set(read(save(net | {"model": saved}, path))) == {"w", "b"}
    assert set(read(save(net | {"net": {"w": torch.zeros(1)}}, path))) == {"w", "b"}


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@OLD_ZIP
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda: Calls(os.system, "true"), r"(posix|nt)\.system"),
        (lambda: Calls(eval, "1"), r"builtin(__|s)\.eval"),
        (lambda: torch.ones(2, 2).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor"),
        (lambda: torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        (lambda: torch.ones(2, device="meta"), r"torch\._utils\._rebuild_meta_tensor_no_storage"),
    ],
    ids=["os.system", "eval", "sparse", "module", "meta"],
)
def test_any_other_name_is_refused_by_that_name(tmp_path, value, name, zipped):
    path = save({"w": torch.ones(1), "x": value()}, tmp_path / "x.pth", zipped)
    refused = f"{name}.*refused" if zipped or "Linear" not in name else f"{name}|not the module"
    with pytest.raises(WeightFileError, match=refused) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("zipped", "protocol"), [(True, 2), (True, 4), (False, 2)])
def test_settings_beside_the_weights_are_passed_over(tmp_path, zipped, protocol):
    """What training scripts keep: read as values that do nothing, whatever it holds, beside the same weights."""
    noted = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs"), layers=[1, 2], more=argparse.Namespace(a=np.float32(2))),
        "best": np.float64(1.5),
        "scores": np.arange(3.0),
        "seen": {1, 2},
        "frozen": frozenset("ab"),
        "at": datetime.datetime(2020, 1, 2),
        "groups": collections.defaultdict(list, {"a": [1]}),
    }
    path, save_as = tmp_path / "x.pth", {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save({"state_dict": {"w": torch.arange(3)}, "epoch": 3, **noted}, path, **save_as)
    np.testing.assert_array_equal(read(path)["w"], [0, 1, 2])
    tree, _ = _parse(ByteSource(path))
    assert isinstance(tree, dict)
    assert tree["epoch"] == 3
    assert {type(tree[name]).__name__ for name in noted} == {"Inert"}
    assert tree["args"].name == "argparse.Namespace"


def test_a_value_that_does_nothing_runs_nothing(tmp_path):
    """A function inside its attributes is refused as anywhere; and what it is given is dropped, not called."""
    path = save({"w": torch.ones(1), "args": argparse.Namespace(x=Calls(os.system, "true"))}, tmp_path / "x.pth")
    with pytest.raises(WeightFileError, match=r"(posix|nt)\.system.*refused"):
        read(path)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_refused_by_name(tmp_path):
    value = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)
    with pytest.raises(WeightFileError, match=r"_rebuild_qtensor|QUInt8Storage"):
        read(save({"x": value}, tmp_path / "x.pth"))


def rezip(path, change, compression=zipfile.ZIP_STORED):
    """The same archive with some members changed."""
    with zipfile.ZipFile(path) as old:
        members = {i.filename: old.read(i) for i in old.infolist()}
    change(members)
    new = path.with_name("changed.pt")
    with zipfile.ZipFile(new, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return new


def test_big_endian_files_are_refused(tmp_path):
    path = save({"w": torch.ones(2)}, tmp_path / "x.pt")
    changed = rezip(path, lambda m: m.update({"x/byteorder": b"big"}))
    with pytest.raises(WeightFileError, match="byte order b'big'; only little-endian"):
        read(changed)
    old = save({"w": torch.ones(2)}, tmp_path / "old.pt", zipped=False)
    data = old.read_bytes()
    at = data.index(b"little_endian") + len("little_endian")
    old.write_bytes(data[:at] + data[at:].replace(b"\x88", b"\x89", 1))
    with pytest.raises(WeightFileError, match="big-endian"):
        read(old)


def test_missing_short_and_compressed_storages_are_refused(tmp_path):
    path = save({"w": torch.ones(20)}, tmp_path / "x.pt")
    with pytest.raises(WeightFileError, match=r"lacks the member 'x/data/0'"):
        read(rezip(path, lambda m: m.pop("x/data/0")))
    with pytest.raises(WeightFileError, match="needs 80 bytes, but its member holds 79"):
        read(rezip(path, lambda m: m.update({"x/data/0": m["x/data/0"][:-1]})))
    with pytest.raises(WeightFileError, match="is compressed"):
        read(rezip(path, lambda m: None, zipfile.ZIP_DEFLATED))


def test_a_tensor_may_not_leave_its_storage_or_repeat_it_without_end(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(20)}, buffer)
    path = tmp_path / "x.pt"
    path.write_bytes(buffer.getvalue())
    size, stride = b"K\x14\x85", b"K\x01\x85"

    def changed(old, new):
        def change(members):
            assert old in members["archive/data.pkl"]
            members["archive/data.pkl"] = members["archive/data.pkl"].replace(old, new, 1)

        return rezip(path, change)

    with pytest.raises(WeightFileError, match="reaches to byte 84 of 80"):
        read(changed(size, b"K\x15\x85"))
    with pytest.raises(WeightFileError, match="reaches to byte 156 of 80"):
        read(changed(stride, b"K\x02\x85"))
    with pytest.raises(WeightFileError, match="has a stride of -1"):
        read(changed(stride, b"J\xff\xff\xff\xff\x85"))
    zero_stride = changed(stride, b"K\x00\x85")
    np.testing.assert_array_equal(read(zero_stride)["w"], np.ones(20))


def test_the_published_cifar_resnets(real_data):
    path = real_data("cifar_resnet/resnet20-12fca82f.th")
    reference = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    tensors = read(path)
    assert list(tensors) == list(reference)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, reference[name].numpy())
