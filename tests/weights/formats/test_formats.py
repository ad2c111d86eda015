"""Every format that `jtl.save` writes: file to jtl to file is bit-equal, and jtl reads it back as it was."""

import json

import jax
import made
import numpy as np
import pytest
from loading import same_bits
from safetensors.numpy import load_file

from jtl.backbones.registry import FAMILIES
from jtl.preprocess.image import Preprocessing, from_timm, to_timm
from jtl.pretrained.load import load
from jtl.pretrained.presets import architecture, presets
from jtl.pretrained.save import save

TIMM_VIT = {
    "architecture": "vit_tiny_patch4_8",
    "model_args": {"embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2},
    "label_names": ["ant", "bee", "wasp"],
    "pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 0.9, "interpolation": "bicubic"},
}
RESNET = {"architecture": "resnet18", "model_args": {"layers": [1, 2]}}
CASES = {
    "vit-hf": (made.VIT, "transformers", "hf"),
    "vit-timm": (TIMM_VIT, "timm", "timm"),
    "resnet-hf": (made.RESNET, "transformers", "hf"),
    "resnet-torchvision": (RESNET, "torchvision", "torchvision"),
    "resnet-timm": (RESNET, "torchvision", "timm"),
    "mobilenet-hf": (made.MOBILENET_V2, "transformers", "hf"),
    "cifar-jtl": ({"architecture": "cifar_resnet20"}, "akamaster", "jtl"),
}


def folder(path, config, naming):
    """Its files are those of a network that the config describes in its own library's words."""
    ours = config
    if "architecture" in config:
        named = (f.named(config["architecture"], config.get("model_args", {})) for f in FAMILIES.values())
        ours = next(found for found in named if found is not None)
    made.folder(path, ours, naming)
    (path / "config.json").write_text(json.dumps(config))
    return path


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    assert ours.preprocessing == theirs.preprocessing
    assert ours.labels == theirs.labels


@pytest.mark.parametrize("case", CASES)
def test_file_to_jtl_to_file_is_bit_equal(case, tmp_path):
    config, naming, format = CASES[case]
    loaded = load(folder(tmp_path / "in", config, naming), classes=("ant", "bee", "wasp"))
    assert loaded.naming == naming
    save(tmp_path / "own", loaded, format="jtl")
    again = load(tmp_path / "own")
    assert again.naming == "jtl"
    equal(again, loaded)
    assert set(load_file(tmp_path / "own" / "model.safetensors")) == {x.path for x in loaded.report.loaded}
    if format != "jtl":
        save(tmp_path / "out", again, format=format)
        same_bits(*(load_file(tmp_path / side / "model.safetensors") for side in ("out", "in")))
        equal(load(tmp_path / "out"), loaded)


def test_a_config_of_timm_says_what_timm_asks_for(tmp_path):
    save(tmp_path / "out", load(folder(tmp_path / "in", TIMM_VIT, "timm")), format="timm")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch4_8"
    assert config["model_args"] == TIMM_VIT["model_args"]
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 3
    assert config["label_names"] == ["ant", "bee", "wasp"]
    assert config["pretrained_cfg"]["input_size"] == [3, 8, 8]


def test_another_image_size_is_named_by_timm_too(tmp_path):
    loaded = load(folder(tmp_path / "in", TIMM_VIT, "timm"), image=12, in_chans=1)
    save(tmp_path / "out", loaded, format="timm")
    again = load(tmp_path / "out")
    assert again.config.image_size == 12
    assert again.config.num_channels == 1
    equal(again, loaded)


def test_a_network_without_a_head_is_saved_in_jtls_format_and_transformers(tmp_path):
    tensors = made.tensors(made.VIT)
    from safetensors.numpy import save_file

    (tmp_path / "in").mkdir()
    save_file({n: a for n, a in tensors.items() if "classifier" not in n}, tmp_path / "in" / "model.safetensors")
    bare = load(tmp_path / "in", arch=made.VIT)
    save(tmp_path / "own", bare, format="jtl")
    again = load(tmp_path / "own")
    assert again.variables.params["head"] == {}
    equal(again, bare)
    save(tmp_path / "out", bare)
    equal(load(tmp_path / "out"), bare)
    with pytest.raises(ValueError, match=r"have no head; .* format='jtl'"):
        save(tmp_path / "timm", bare, format="timm")


def test_what_a_library_has_not_is_named(tmp_path):
    vit = load(made.folder(tmp_path / "vit", made.VIT))
    with pytest.raises(ValueError, match=r"torchvision has no network of the family 'vit'; .*\['hf', 'timm', 'jtl'\]"):
        save(tmp_path / "out", vit, format="torchvision")
    with pytest.raises(
        ValueError, match=r"no network of timm has these measures; vit_tiny.*hidden_size=12 in place of"
    ):
        save(tmp_path / "out", vit, format="timm")
    assert not (tmp_path / "out").exists()


def test_presets_are_the_names_written_out():
    known = ["resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert presets(FAMILIES["resnet"]) == known
    assert {"vit_tiny_patch16_224", "vit_large_patch32_384"} <= set(presets(FAMILIES["vit"]))
    for kind, family in FAMILIES.items():
        for name in presets(family):
            config = family.named(name, {})
            assert config is not None
            assert config["model_type"] == kind


@pytest.mark.parametrize("name", ["resnet34", "resnet152", "vit_base_patch16_224", "vit_small_patch16_384"])
def test_a_network_is_found_by_its_measures(name):
    family = FAMILIES["resnet" if name.startswith("resnet") else "vit"]
    config = family.complete(family.named(name, {}) or {}, "timm")
    assert architecture(family, config, "timm") == (name, {})
    assert architecture(family, config.replace(num_channels=4), "timm") == (name, {"in_chans": 4})


@pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if presets(family)])
def test_every_named_network_of_images_is_found_with_other_channels(kind):
    family = FAMILIES[kind]
    named = family.named(presets(family)[0], {}) or {}
    for naming in ("timm", "torchvision"):
        config = family.complete(named, naming)
        if hasattr(config, "num_channels") and naming in family.tables(config):
            assert architecture(family, config.replace(num_channels=4), naming)[1] == {"in_chans": 4}


def test_timm_is_told_its_own_name():
    """Of a network that torchvision's name said."""
    family = FAMILIES["swin"]
    config = family.complete({**(family.named("swin_s", {}) or {}), "architecture": "swin_s"}, "torchvision")
    assert architecture(family, config, "timm") == ("swin_small_patch4_window7_224", {})
    assert architecture(family, config, "torchvision") == ("swin_s", {})


@pytest.mark.parametrize("size", [(256, 224), (248, 224), (235, 224), (255, 224), (224, 224), (438, 384), (248, 221)])
def test_timm_cuts_what_jtl_cuts(size):
    usual = Preprocessing(256, 224, "bilinear", (0.0,) * 3, (1.0,) * 3)
    images = Preprocessing(*size, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert from_timm(to_timm(images, 3), usual) == images
    squashed = images._replace(size=(size[0], size[0]), crop=None if size[0] == size[1] else size[1])
    assert from_timm(to_timm(squashed, 3), usual) == squashed


@pytest.mark.parametrize(("size", "crop"), [(None, None), (256, None), ((224, 256), None), (200, 224)])
def test_what_timm_cannot_say(size, crop):
    with pytest.raises(ValueError, match="timm cannot say size="):
        to_timm(Preprocessing(size, crop, "bilinear", (0.0,) * 3, (1.0,) * 3), 3)
