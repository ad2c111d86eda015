"""The first stages of a network alone."""

import json
from inspect import unwrap

import jax
import names_before
import numpy as np
import pytest
from loading import channels_first, images
from running import forward
from safetensors.numpy import load_file, save_file

from jtl._tracing.eval_shape import shapes
from jtl.backbones.registry import FAMILIES
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.outline import outline
from jtl.pretrained.save import save
from jtl.pretrained.truncate import shortened
from jtl.weights import WeightNameError
from jtl.weights.mapping.rules import Rules

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from text_references import hf_text
from torch_references import hf_resnet, hf_vit
from torch_vits import hf_swin


def run(loaded, x):
    apply = forward(loaded.network, train=False)
    return jax.jit(lambda v, x: apply(v, x, None)[:2])(loaded.variables, x)


def test_first_blocks_of_a_vit(tmp_path):
    """Their features are the whole network's to the bit; the rest is transformers' network of two blocks."""
    net, x = hf_vit(depth=3), images((12, 12))
    net.save_pretrained(tmp_path / "in")
    short = load(tmp_path / "in", stages=2)
    assert sorted(n for n in short.report.unused) == sorted(
        n for n in load_file(tmp_path / "in" / "model.safetensors") if ".layer.2." in n
    )
    features, logits = run(short, x)
    whole, _ = run(load(tmp_path / "in"), x)
    assert {*whole} - {*features} == {"stage3"}
    for name in ("stage1", "stage2"):
        np.testing.assert_array_equal(features[name], whole[name])
    save(tmp_path / "out", short)
    theirs, account = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    assert theirs.config.num_hidden_layers == 2
    np.testing.assert_allclose(logits, theirs(channels_first(x)).logits.detach(), rtol=1e-5, atol=1e-5)
    save(tmp_path / "own", load(tmp_path / "in"), format="jtl")  # by jtl's own paths too
    same = load(tmp_path / "own", stages=2).variables.params
    jax.tree.map(np.testing.assert_array_equal, same, short.variables.params)


def test_first_stages_of_nets_that_widen(tmp_path):
    """What depends on the last width is re-initialised on request, and an error otherwise."""
    nets = {
        "resnet": (hf_resnet("basic", width=4, depths=(1, 1)), ("head/.*",), (32, 32)),
        "swin": (hf_swin(window_size=3, patch_size=2), ("head/.*", "backbone/norm/.*"), (12, 12)),
    }
    for name, (net, reinit, size) in nets.items():
        net.save_pretrained(tmp_path / name)
        with pytest.raises(WeightNameError, match=r"head/out/kernel: the model has shape \(\d, 2\)"):
            load(tmp_path / name, stages=1, classes=2)
        short = load(tmp_path / name, stages=1, classes=2, reinit=reinit)
        features, _ = run(short, images(size))
        whole, _ = run(load(tmp_path / name), images(size))
        assert {*whole} - {*features} == {"stage2"}
        np.testing.assert_array_equal(features["stage1"], whole["stage1"])
        save(tmp_path / f"{name}-out", short)
        _, account = transformers.AutoModelForImageClassification.from_pretrained(
            tmp_path / f"{name}-out", output_loading_info=True
        )
        assert not any(account.values()), account


def test_first_blocks_of_a_bert(tmp_path):
    net = hf_text("bert")
    net.save_pretrained(tmp_path)
    whole, short = load(tmp_path), load(tmp_path, stages=1)
    assert short.config.num_hidden_layers == 1
    kept = flatten(short.variables.params)
    assert not any("block2" in path for path in kept)
    for path, value in kept.items():
        np.testing.assert_array_equal(value, flatten(whole.variables.params)[path])


RECORDED = {before.config["model_type"] for before in names_before.tables()}


@pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if family.depth and kind in RECORDED])
def test_every_family_that_says_its_depth_can_be_cut(kind):
    """One stage: its feature is there, and no other's; names of its parameters are read, and those of the rest left."""
    family = FAMILIES[kind]
    known = [before for before in names_before.tables() if before.config["model_type"] == kind]
    for before in (table for table in known if table.config == known[0].config):
        config = family.complete(dict(before.config), before.naming)
        names = {
            name: paths for name, (paths, _) in before.names.items() if outline(family, config, 2).keys() >= {*paths}
        }
        short, table, left = shortened(family, config, before.naming, 1, names)
        read = {path for name, paths in names.items() if name not in left for path in paths}
        second = "/stage2/" if any("/stage2/" in path for path in before.paths) else "/block2/"
        assert not any(second in path for path in read)
        assert all(Rules(table).first(name) for name in names if name not in left)
    net, example = family.backbone(short), family.example(short)
    variables = shapes(net.init, jax.random.key(0), example)
    features = shapes(lambda v, x: net.apply(v, x, train=False)[0], variables, example)
    assert [name for name in features if name.startswith("stage")] == ["stage1"]
    assert {f"backbone/{path}" for path in flatten(variables.params)} <= read


def test_what_cannot_be_is_refused(tmp_path):
    hf_vit(depth=2).save_pretrained(tmp_path)
    for stages in (0, 3):
        with pytest.raises(ValueError, match=f"stages={stages}: this vit has 2; give 1 to 2"):
            load(tmp_path, stages=stages)
    with pytest.raises(TypeError, match="stages='1': give a whole number"):
        unwrap(load)(tmp_path, stages="1")
    other = tmp_path / "other"
    other.mkdir()
    save_file({"features.0.weight": np.zeros(3, np.float32)}, other / "model.safetensors")
    (other / "config.json").write_text(json.dumps({"model_type": "alexnet"}))
    with pytest.raises(ValueError, match="stages=1: of alexnet all is read"):
        load(other, stages=1)
