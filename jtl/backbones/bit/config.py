"""Big Transfer's ResNets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.bit import names as maps
from jtl.backbones.family import Family, Raw, changed, loose, must_be, picture, real, stages, whole, wholes
from jtl.model import Model
from jtl.nn.conv_blocks import rounded
from jtl.preprocess.image import HALF, Preprocessing
from jtl.weights.mapping.rules import Rule

_DEPTHS = {"50": [3, 4, 6, 3], "101": [3, 4, 23, 3], "152": [3, 8, 36, 3]}
_WORDS = {name: name for name in ("channels", "stem_chs", "drop_path_rate")} | {"in_chans": "num_channels"}


def _named(name: str, changes: Mapping[str, Any]) -> Raw | None:
    found = re.fullmatch(r"resnetv2_(50|101|152)x(\d)_bit", name)
    if not found:
        return None
    depth, factor = found[1], int(found[2])
    config: Raw = {"depths": _DEPTHS[depth], "channels": [256, 512, 1024, 2048], "stem_chs": 64}
    config = changed(config, changes, _WORDS)
    wholes(config, "channels", longest=8)
    whole(config, "stem_chs")
    # transformers has no factor.
    widths = [rounded(width * factor) for width in config.pop("channels")]
    stem = rounded(config.pop("stem_chs") * factor)
    return {"model_type": "bit", **config, "hidden_sizes": widths, "embedding_size": stem}


def _complete(config: Raw, naming: str) -> Raw:
    del naming
    usual = {
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "preactivation",
        "hidden_act": "relu",
        "global_padding": None,
        "num_groups": 32,
        "drop_path_rate": 0.0,
        "embedding_dynamic_padding": False,
        "output_stride": 32,
        "width_factor": 1,
    }
    config = {**usual, **config}
    whole(config, "num_channels", "embedding_size", "num_groups")
    wholes(config, "hidden_sizes", longest=8)
    wholes(config, "depths", most=256, longest=8)
    real(config, "drop_path_rate", 0.99)
    return config


def _backbone(config: Raw) -> Model:
    must_be(config, layer_type="preactivation", hidden_act="relu", global_padding=None)
    must_be(config, embedding_dynamic_padding=False, output_stride=32, width_factor=1)
    return backbones.bit(
        stages(config),
        stem=config["embedding_size"],
        groups=config["num_groups"],
        drop_path=config["drop_path_rate"],
    )


def _tables(config: Raw) -> dict[str, Sequence[Rule]]:
    depths = config["depths"]
    return {
        "transformers": maps.transformers(depths),
        "timm": maps.timm(depths),
        "original": maps.original(depths),
    }


def _usual(name: str, config: Raw) -> Preprocessing:
    del name, config
    return Preprocessing(256, 224, "bilinear", *HALF)


BIT = Family(
    names="resnetv2_{50x1,50x3,101x1,101x3,152x2,152x4}_bit",
    named=_named,
    config=loose("bit", _complete),
    backbone=_backbone,
    example=lambda config: picture(64, config["num_channels"]),
    tables=_tables,
    usual=_usual,
    architecture="BitForImageClassification",
    depth=("depths", "hidden_sizes"),
)
FAMILIES = (BIT,)
