"""Big Transfer's ResNets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.backbones.bit import names as maps
from jtl.backbones.bit.network import DEPTHS, bit
from jtl.backbones.config import Config, Depths, DropRate, Whole, Widths, read
from jtl.backbones.family import Family, changed, picture
from jtl.model import Model
from jtl.nn.conv_blocks import rounded
from jtl.preprocess.image import HALF, Preprocessing
from jtl.weights.mapping.rules import Rule

_WORDS = {name: name for name in ("channels", "stem_chs", "drop_path_rate")} | {"in_chans": "num_channels"}


class BitConfig(Config, model_type="bit"):
    """The config of a BiT."""

    num_channels: Whole = 3
    embedding_size: Whole = 64
    hidden_sizes: Widths = (256, 512, 1024, 2048)
    depths: Depths = (3, 4, 6, 3)
    layer_type: Literal["preactivation"] = "preactivation"
    hidden_act: Literal["relu"] = "relu"
    global_padding: Literal[None] = None
    num_groups: Whole = 32
    drop_path_rate: DropRate = 0.0
    embedding_dynamic_padding: Literal[False] = False
    output_stride: Literal[32] = 32
    width_factor: Literal[1] = 1

    def _check(self) -> None:
        self._as_many("depths", "hidden_sizes")


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"resnetv2_(50|101|152)x(\d)_bit", name)
    if not found:
        return None
    depth, factor = int(found[1]), int(found[2])
    config = {"depths": list(DEPTHS[depth]), "channels": [256, 512, 1024, 2048], "stem_chs": 64}
    config = changed(config, changes, _WORDS)
    # transformers has no such factor.
    widths = [rounded(width * factor) for width in read(Widths, "channels", config.pop("channels"))]
    stem = rounded(read(Whole, "stem_chs", config.pop("stem_chs")) * factor)
    return {"model_type": "bit", **config, "hidden_sizes": widths, "embedding_size": stem}


def _backbone(config: BitConfig) -> Model:
    return bit(
        list(zip(config.depths, config.hidden_sizes, strict=True)),
        stem=config.embedding_size,
        groups=config.num_groups,
        drop_path=config.drop_path_rate,
    )


def _tables(config: BitConfig) -> dict[str, Sequence[Rule]]:
    del config
    return {"transformers": maps.transformers(), "timm": maps.timm(), "original": maps.original()}


def _usual(name: str, config: BitConfig) -> Preprocessing:
    del name, config
    return Preprocessing(256, 224, "bilinear", *HALF)


FAMILIES = (
    Family(
        names="resnetv2_{50x1,50x3,101x1,101x3,152x2,152x4}_bit",
        named=_named,
        config=BitConfig,
        backbone=_backbone,
        example=lambda config: picture(64, config.num_channels),
        tables=_tables,
        usual=_usual,
        architecture="BitForImageClassification",
        depth=("depths", "hidden_sizes"),
    ),
)
