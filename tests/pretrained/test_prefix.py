"""Checkpoints of somebody's training: the network within a larger one, beside others, in several copies."""

import logging

import jax
import made
import numpy as np
import pytest
from loading import same_bits, tree_of
from safetensors.numpy import load_file, save_file

from jtl.backbones.registry import FAMILIES
from jtl.command.model import pretrained
from jtl.params import flatten
from jtl.pretrained.inspect import inspect
from jtl.pretrained.load import load
from jtl.pretrained.recognise import prefix_of
from jtl.weights import WeightFileError, WeightNameError


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder as transformers writes it, and its tensors."""
    folder = made.folder(tmp_path_factory.mktemp("plain"), made.RESNET)
    return folder, load_file(folder / "model.safetensors")


def beside(folder, tensors):
    """A file of other tensors with that folder's config."""
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def copied(plain, tmp_path):
    (tmp_path / "config.json").write_text((plain[0] / "config.json").read_text())
    return tmp_path


def test_a_network_within_another_is_read_by_its_prefix(plain, copied):
    """The same bits, and what belongs to others is accounted for as unused."""
    others = {"criterion.weight": np.ones(3, np.float32), "module.queue": np.zeros(2, np.float32)}
    held = {f"module.net.{name}": array for name, array in plain[1].items()} | others
    loaded = load(beside(copied, held), prefix="module.net.")
    same_bits(*(dict(flatten(tree_of(x))) for x in (loaded, load(plain[0]))))
    assert set(others) <= set(loaded.report.unused)
    with pytest.raises(WeightNameError, match=r"none of the .* has a name of .*; but with prefix='module\.net\.'"):
        load(copied)
    with pytest.raises(WeightNameError, match=r"none of the .* tensors \(.*\) has prefix='model\.'"):
        load(copied, prefix="model.")
    assert "and fit it: jtl.load(" in (said := inspect(copied, prefix="module.net."))
    assert said.endswith("prefix='module.net.')")


@pytest.mark.parametrize("prefix", ["module.", "net.", "encoder_q.", "module.backbone."])
def test_a_prefix_of_all_names_may_be_omitted_and_is_told(plain, copied, caplog, prefix):
    """As of a network within the module that a trainer saved; the names of `module.` are a wrapper's, as they were."""
    with caplog.at_level(logging.WARNING, "jtl.load"):
        loaded = load(beside(copied, {prefix + name: array for name, array in plain[1].items()}))
        same_bits(*(dict(flatten(tree_of(x))) for x in (loaded, load(plain[0]))))
    told = [] if prefix == "module." else [f"{copied}: all names begin with {prefix!r}, which is left out"]
    assert caplog.messages == told


def test_a_file_alone_is_recognised_without_the_prefix_of_all_its_names(tmp_path, monkeypatch, caplog):
    kind = "cifar_resnet"
    monkeypatch.setattr("jtl.pretrained.inspect.FAMILIES", {kind: FAMILIES[kind]})
    config = {"model_type": kind, "depth": 20}
    held, file = made.tensors(config, "akamaster", classes=10), tmp_path / "net.safetensors"
    save_file({f"model.net.{name}": array for name, array in held.items()}, file)
    loaded = pretrained(str(file), ("a", "b"), arch=None, kind="images", key=jax.random.key(0))
    same_bits(*(dict(flatten(tree_of(x)["backbone"])) for x in (loaded, load(file, arch="cifar_resnet20"))))
    assert caplog.messages[0] == f"{file}: all names begin with 'model.net.', which is left out"
    told = "All names begin with 'model.net.', which jtl.load leaves out.\nAll 116 of 116 tensors have a name of"
    assert told in inspect(file)


def test_a_file_of_several_copies_is_told_which(plain, tmp_path):
    """As DINO and BYOL save them, a student and its teacher."""
    torch = pytest.importorskip("torch", reason="torch writes the file; it is installed for Python 3.11 only")
    teacher = {f"backbone.{name}": torch.tensor(array) for name, array in plain[1].items()}
    saved = {"student": {n: 0 * a for n, a in teacher.items()}, "teacher": teacher, "epoch": 3}
    torch.save(saved, tmp_path / "last.ckpt")
    (tmp_path / "config.json").write_text((plain[0] / "config.json").read_text())
    with pytest.raises(WeightFileError, match=r"choose one by within=: 'student' \(\d+ tensors\), 'teacher'"):
        load(tmp_path)
    loaded = load(tmp_path, within="teacher", prefix="backbone.")
    same_bits(*(dict(flatten(tree_of(x))) for x in (loaded, load(plain[0]))))
    said = inspect(tmp_path, within="teacher", prefix="backbone.")
    assert said.endswith("within='teacher', prefix='backbone.')")


def test_a_sharded_load_takes_the_same(plain, copied):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    held = {f"net.{name}": array for name, array in plain[1].items()}
    loaded = load(beside(copied, held), prefix="net.", sharding=device)
    same_bits(*(dict(flatten(tree_of(x))) for x in (loaded, load(plain[0]))))


def test_what_names_begin_with_is_looked_for_within_bounds():
    """Not at every dot of every name: a file may have a million of either."""
    family = FAMILIES["resnet"]
    table = family.tables(family.complete(dict(made.RESNET), "transformers"))["transformers"]
    names = [f"net.{name}" for name in made.tensors(made.RESNET)]
    assert prefix_of(names, table) == "net."
    assert prefix_of(["a." * 100_000 + "w"] * 10, table) is None
    assert prefix_of([*names, *(f"net.other{i}" for i in range(len(names) + 1))], table) is None
    assert prefix_of([], table) is None


def test_inspect_tells_what_names_begin_with(tmp_path, monkeypatch):
    monkeypatch.setattr("jtl.pretrained.inspect.FAMILIES", {})
    save_file({f"net.{i}": np.zeros(1, np.float32) for i in range(3)}, tmp_path / "x.safetensors")
    said = inspect(tmp_path / "x.safetensors")
    assert said.endswith("No family of jtl has these names. 3 begin with 'net.', and prefix='net.' leaves that out.")
