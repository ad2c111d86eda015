"""DeiT-III and timm's towers of CLIP and SigLIP: names, measures and refusals.

Their numbers are compared with timm's in `test_other_libraries.py`.
"""

import jax
import numpy as np
import pytest
from loading import renamed, same_bits
from safetensors.numpy import load_file, save_file

from jtl._tracing.eval_shape import shapes
from jtl.params import flatten
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.pretrained.save import save
from jtl.weights import WeightNameError, export

SMALL = {"img_size": 12, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}
NAMES = ("deit3_small_patch16_224", "vit_base_patch32_clip_224", "vit_base_patch16_siglip_224")


def file(name):
    """Random tensors of a small network and of a classifier of 3 classes, by timm's names."""
    family, config, *_ = recognise(None, {"architecture": name, "model_args": SMALL})
    config = family.complete(config, "timm")
    rng = np.random.default_rng(0)

    def some(leaf):
        return rng.normal(size=leaf.shape).astype(np.float32)

    made = shapes(family.backbone(config).init, jax.random.key(0), family.example(config))
    head = {"out": {"kernel": some(np.empty((8, 3))), "bias": some(np.empty(3))}}
    return export({"backbone": jax.tree.map(some, made.params), "head": head}, family.tables(config)["timm"])


@pytest.mark.parametrize("name", NAMES)
def test_only_timm_has_them(name, tmp_path):
    held = file(name)
    save_file(held, tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors", arch={"architecture": f"{name}.some_tag", "model_args": SMALL})
    assert loaded.naming == "timm"
    save(tmp_path / "out", loaded, format="timm")
    same_bits(load_file(tmp_path / "out" / "model.safetensors"), held)
    save(tmp_path / "own", load(tmp_path / "out"), format="jtl")
    same_bits(renamed(load(tmp_path / "own"), "timm"), held)
    said = r"has no network of the family '\w+'; save it as one of \['timm', 'jtl'\]"
    with pytest.raises(ValueError, match=said):
        save(tmp_path / "no", loaded)
    with pytest.raises(ValueError, match=said):
        save(tmp_path / "no", loaded, format="torchvision")
    first = load(tmp_path / "out", stages=1, classes=("ant", "bee"), reinit=("head/.*",))
    assert "block2" not in first.variables.params["backbone"]
    assert first.labels == ("ant", "bee")


def test_the_original_files_of_deit3_name_the_factors_another_way(tmp_path):
    held = file(NAMES[0])
    assert held["pos_embed"].shape == (1, 9, 8)
    original = {n.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): a for n, a in held.items()}
    assert "blocks.1.gamma_2" in original
    save_file(original, tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors", arch={"architecture": NAMES[0], "model_args": SMALL})
    same_bits(renamed(loaded, "timm"), held)


def test_a_tower_pooled_otherwise_does_not_fit(tmp_path):
    held = file(NAMES[2])
    save_file(held, tmp_path / "x.safetensors")
    arch = {"architecture": "vit_base_patch16_siglip_gap_224", "model_args": SMALL}
    with pytest.raises(WeightNameError, match=r"attn_pool\.kv\.bias"):
        load(tmp_path / "x.safetensors", arch=arch)
    averaged = load(tmp_path / "x.safetensors", arch=arch, unused=(r"attn_pool\..*",))
    same_bits(renamed(averaged, "timm"), {n: a for n, a in held.items() if "attn_pool" not in n})


def test_parameters_are_where_they_are_said_to_be():
    family, config, *_ = recognise(None, {"architecture": NAMES[0], "model_args": SMALL})
    config = family.complete(config, "timm")
    made = shapes(family.backbone(config).init, jax.random.key(0), family.example(config))
    found = {path: leaf.shape for path, leaf in flatten(made.params).items()}
    assert found["class_token"] == (1, 1, 8)
    assert found["position"] == (1, 9, 8)
    assert found["block1/scale1"] == (8,)


@pytest.mark.parametrize(
    ("name", "width", "hidden", "act"),
    [
        ("deit3_huge_patch14_224", 1280, 5120, "gelu"),
        ("vit_giant_patch14_clip_224", 1408, 6144, "gelu"),
        ("vit_gigantic_patch14_clip_quickgelu_224", 1664, 8192, "quick_gelu"),
        ("vit_so400m_patch14_siglip_384", 1152, 4304, "gelu"),
        ("vit_so400m_patch16_siglip_gap_256", 1152, 4304, "gelu_tanh"),
        ("vit_large_patch16_siglip_384", 1024, 4096, "gelu"),
        ("vit_large_patch16_siglip_gap_512", 1024, 4096, "gelu_tanh"),
    ],
)
def test_measures_by_name(name, width, hidden, act):
    family, config, *_ = recognise(None, name)
    config = family.complete(config, "timm")
    assert [config.hidden_size, config.intermediate_size, config.hidden_act] == [width, hidden, act]


def test_images_are_prepared_as_timm_does():
    clip = recognise(None, NAMES[1]).preprocessing
    assert isinstance(clip, Preprocessing)
    assert (*clip[:3], clip.mean[0]) == (224, 224, "bicubic", 0.48145466)
    assert recognise(None, NAMES[0]).preprocessing == Preprocessing(248, 224, "bicubic", *IMAGENET)
    assert recognise(None, NAMES[2]).preprocessing == Preprocessing(248, 224, "bicubic", *HALF)
    whole = recognise(None, "vit_so400m_patch14_siglip_gap_448").preprocessing
    assert whole == Preprocessing(448, 448, "bicubic", *HALF)


def test_bad_configs_are_named():
    for config, said in (
        ({"model_type": "timm_siglip", "pool": "max"}, r"pool=.*max.*: give one of \['attention', 'mean'\]"),
        ({"model_type": "timm_clip", "hidden_act": "relu"}, r"hidden_act=.*relu.*: give one of"),
        ({"model_type": "deit3", "layerscale_value": "a"}, "layerscale_value=.*: give a number"),
    ):
        family, found, *_ = recognise(None, config)
        with pytest.raises(ValueError, match=said):
            family.complete(found, "timm")
    with pytest.raises(ValueError, match=r"model_args \['init_values'\] change the network in a way"):
        recognise(None, {"architecture": NAMES[1], "model_args": {"init_values": 1.0}})
