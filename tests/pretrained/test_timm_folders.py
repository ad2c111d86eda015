"""Folders as timm 1.0.31's `save_for_hf` writes them: the words that change nothing, and those that would."""

import json

import jax
import made
import numpy as np
import pytest
from loading import same_bits, tree_of
from safetensors.numpy import save_file

from jtl.backbones.registry import FAMILIES
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.pretrained.save import save

ARGS = {"num_classes": 3, "in_chans": 3}
TINY = {"embed_dim": 12, "depth": 1, "num_heads": 3}
TOWERS = {
    "vit_base_patch32_clip_224": ("timm_clip", "token"),
    "vit_base_patch16_siglip_224": ("timm_siglip", "map"),
    "vit_base_patch16_siglip_gap_224": ("timm_siglip", "avg"),
}
SMALL = {"resnet18": {"layers": [1, 1]}, "vit_tiny_patch16_224": TINY, **dict.fromkeys(TOWERS, TINY)}
RESNET = {"architecture": "resnet18", "num_classes": 3, "num_features": 128, "global_pool": "avg"}
RESNET |= {"model_args": {**ARGS, **SMALL["resnet18"], "global_pool": "avg"}}
VIT = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "num_features": 12, "global_pool": "token"}
VIT |= {"model_args": {**ARGS, **SMALL["vit_tiny_patch16_224"], "global_pool": "token", "img_size": [224, 224]}}


KINDS = {"resnet": RESNET, "vit": VIT} | {
    kind: VIT | {"architecture": kind, "global_pool": pool, "model_args": VIT["model_args"] | {"global_pool": pool}}
    for kind, (_, pool) in TOWERS.items()
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Networks by timm's names, with a config that says no more than it must, and what `save_for_hf` says."""
    found = {}
    for kind, config in KINDS.items():
        name, folder = config["architecture"], tmp_path_factory.mktemp(kind)
        sizes = {"architecture": name, "model_args": SMALL[name]}
        entries = FAMILIES[TOWERS.get(kind, (kind,))[0]].named(name, SMALL[name])
        save_file(made.tensors(entries, "timm"), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(sizes))
        found[name] = folder, config
    return found


def described(folder, tmp_path, config):
    for file in folder.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", *TOWERS])
def test_what_changes_nothing_is_passed_over(written, name, tmp_path):
    folder, config = written[name]
    loaded, plain = load(described(folder, tmp_path, config)), load(folder)
    measures = [{k: v for k, v in one.config.to_dict().items() if k != "model_args"} for one in (loaded, plain)]
    assert measures[0] == measures[1]
    same_bits(*(dict(flatten(tree_of(one))) for one in (loaded, plain)))
    assert loaded.preprocessing == plain.preprocessing
    save(tmp_path / "out", loaded, format="timm")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out").variables, plain.variables)


def test_the_pooling_of_a_dinov2_is_said_once():
    config = {"architecture": "vit_small_patch14_dinov2", "global_pool": "avg"}
    with pytest.raises(ValueError, match="global_pool='avg': of a dinov2 only 'token' is read"):
        recognise(None, config)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("resnet18", {"global_pool": "max"}, "global_pool='max': of a resnet only 'avg' is read"),
        ("resnet18", {"model_args": {"global_pool": "catavgmax"}}, "model_args global_pool='catavgmax': of a resnet"),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, "global_pool='avg': of a vit only 'token' is read"),
        ("vit_base_patch32_clip_224", {"global_pool": "avg"}, "='avg': of a timm_clip only 'token' is read"),
        ("vit_base_patch16_siglip_224", {"global_pool": "avg"}, "='avg': of a timm_siglip only 'map' is read"),
        ("vit_base_patch16_siglip_gap_224", {"global_pool": "map"}, "='map': of a timm_siglip only 'avg' is read"),
        (
            "vit_tiny_patch16_224",
            {"model_args": {"img_size": [224, 384]}},
            r"img_size='\[224, 384\]': only squares are read",
        ),
        ("resnet18", {"model_args": {"num_classes": "3"}}, "num_classes='3': give a number of classes"),
        ("resnet18", {"model_args": {"act_layer": "silu"}}, r"model_args \['act_layer'\] change the network"),
    ],
)
def test_what_changes_the_network_is_refused_by_name(written, name, changes, said, tmp_path):
    folder, config = written[name]
    with pytest.raises(ValueError, match=said):
        load(described(folder, tmp_path, {**config, **changes}))
