"""What `jtl inspect` says of a file."""

import jax
import made
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.backbones.registry import FAMILIES
from jtl.command.model import pretrained
from jtl.pretrained.inspect import Fit, distinct, exact, inspect
from jtl.pretrained.load import load
from jtl.weights import WeightFileError
from jtl.weights.formats.read import read


@pytest.fixture
def few(monkeypatch):
    """Two families: the checks of types that run in tests take a minute for the tables of all."""
    monkeypatch.setattr(
        "jtl.pretrained.inspect.FAMILIES", {kind: FAMILIES[kind] for kind in ("resnet", "cifar_resnet")}
    )


def test_a_folder_with_its_config(tmp_path):
    folder = made.folder(tmp_path, made.VIT)
    held = made.tensors(made.VIT)
    said = inspect(folder)
    count, size = sum(a.size for a in held.values()), sum(a.nbytes for a in held.values())
    assert f"model.safetensors: {len(held)} tensors, {count:,} numbers, {size:,} bytes" in said
    assert f"types: float32 {count:,}" in said
    assert "'format': 'pt'" in said
    words = [line.split() for line in said.splitlines()]
    for name, array in held.items():
        assert [name, "x".join(map(str, array.shape)), "float32"] in words
    assert f"All {len(held)} of {len(held)} tensors have a name of vit, by the names of transformers" in said
    assert f"jtl.load({str(folder)!r})" in said


def test_a_file_alone_is_recognised_by_its_shapes(few, tmp_path):
    """Six networks have akamaster's names, one of them these shapes; what is advised works."""
    made.folder(tmp_path, {"model_type": "cifar_resnet", "depth": 20}, "akamaster", classes=7)
    file = tmp_path / "model.safetensors"
    said = inspect(file, rows=3)
    assert f"jtl.load({str(file)!r}, arch='cifar_resnet20')" in said
    assert "... and 113 more" in said
    assert load(file, arch="cifar_resnet20").variables.params["head"]["out"]["bias"].shape == (7,)


def test_names_that_fit_and_shapes_that_do_not(few, tmp_path):
    made.folder(tmp_path, {**made.RESNET, "depths": [2, 2, 2, 2], "hidden_sizes": [4, 8, 16, 32]})
    said = inspect(tmp_path / "model.safetensors", rows=0)
    assert "by the names of transformers, resnet18; " in said
    assert "have another shape than there, 0 of its parameters are absent" in said
    assert "tensor  " not in said


def test_networks_that_differ_in_no_shape_are_all_named(monkeypatch, tmp_path):
    """The first was taken in silence, and MobileNets of TensorFlow were computed with another padding."""
    only = {"mobilenet_v3": FAMILIES["mobilenet_v3"]}
    monkeypatch.setattr("jtl.pretrained.inspect.FAMILIES", only)
    config = {"model_type": "mobilenet_v3", "size": "small", "depth_multiplier": 0.75, "scaling": "timm"}
    made.folder(tmp_path, config, "timm")
    file = tmp_path / "model.safetensors"
    assert [fit.name for fit in exact(file, read(file))] == ["mobilenetv3_small_075", "tf_mobilenetv3_small_075"]
    said = inspect(file, rows=0)
    assert "fit it: jtl.load" in said
    assert "They fit tf_mobilenetv3_small_075 too" in said
    with pytest.raises(ValueError, match=r"fits mobilenetv3_small_075, tf_mobilenetv3_small_075, which .* by --arch"):
        pretrained(str(file), ("a", "b"), arch=None, kind="images", key=jax.random.key(0))
    loaded = pretrained(str(file), ("a", "b"), arch="tf_mobilenetv3_small_075", kind="images", key=jax.random.key(0))
    assert loaded.config.model_type == "mobilenet_v3"


@pytest.mark.parametrize(
    ("kind", "naming", "given", "kept"),
    [
        ("vit", "timm", ("vit_tiny_patch16_224", "deit_tiny_patch16_224"), (0, 1)),  # of other means of pixels
        ("swin", "timm", ("swin_tiny_patch4_window7_224", "swin_t"), (0,)),
        ("swin", "torchvision", ("swin_tiny_patch4_window7_224", "swin_t"), (1,)),
        ("mobilenet_v2", "timm", ("mobilenet_v2", "mobilenetv2_100"), (1,)),
    ],
)
def test_names_of_one_network_are_told_apart_by_library_and_preprocessing(kind, naming, given, kept):
    """DeiT's files were read with the pixels of other ViTs, and torchvision's with timm's crop."""
    family = FAMILIES[kind]
    fits = [Fit(kind, naming, family.complete(family.named(name, {}) or {}, naming), name, 1) for name in given]
    assert [fit.name for fit in distinct(fits)] == [given[i] for i in kept]


def test_a_file_of_a_compiled_module_is_recognised_by_the_commands(few, tmp_path):
    held = made.tensors({"model_type": "cifar_resnet", "depth": 20}, "akamaster")
    save_file({f"_orig_mod.{name}": array for name, array in held.items()}, tmp_path / "x.safetensors")
    loaded = pretrained(str(tmp_path / "x.safetensors"), ("a",), arch=None, kind="images", key=jax.random.key(0))
    assert loaded.naming == "akamaster"


def test_a_file_of_nobody(few, tmp_path):
    tensors = {"w": np.zeros((2, 3), np.float16), "s": np.zeros((), np.int64), "bad\nname": np.zeros(0, np.float32)}
    save_file(tensors, tmp_path / "x.safetensors")
    said = inspect(tmp_path / "x.safetensors")
    assert "3 tensors, 7 numbers, 20 bytes" in said
    assert "types: float16 6, int64 1, float32 0" in said
    assert "scalar" in said
    assert "scalar" not in inspect(tmp_path / "x.safetensors", rows=2)  # scalars are last
    assert "'bad\\nname'" in said
    assert ["s", "scalar", "int64"] in [line.split() for line in said.splitlines()]
    assert said.endswith("No family of jtl has these names.")


def test_what_is_no_file_of_weights(tmp_path):
    (tmp_path / "x").write_bytes(b"hello world")
    with pytest.raises(WeightFileError, match="is text: 'hello world'"):
        inspect(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "absent")
    with pytest.raises(ValueError, match="rows=-1"):
        inspect(tmp_path / "x", rows=-1)
