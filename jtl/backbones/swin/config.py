"""Swin."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from jtl.backbones.config import Config, Depth, DropRate, Range, Rate, Ratio, Whole
from jtl.backbones.family import Family, changed, picture
from jtl.backbones.swin import names as maps
from jtl.backbones.swin.network import swin
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_SIZES = {
    "tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "small": (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "base": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "large": (192, [2, 2, 18, 2], [6, 12, 24, 48]),
}
_RESIZED = {"swin_t": 232, "swin_s": 246, "swin_b": 238}
"""torchvision's name -> its size of the short side before a square of 224 pixels is cropped."""
_SAME = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "drop_path_rate")
_WORDS = {name: name for name in _SAME} | {"img_size": "image_size", "in_chans": "num_channels"}
_Counts = Annotated[tuple[Depth, ...], Range(1, 6)]
_Side = Annotated[int, Range(1, 64)]


class SwinConfig(Config, model_type="swin", aliases={"num_attention_heads": "num_heads"}):
    """The config of a Swin."""

    image_size: Whole = 224
    patch_size: _Side = 4
    num_channels: Whole = 3
    embed_dim: Annotated[int, Range(1, 1 << 12)] = 96
    depths: _Counts = (2, 2, 6, 2)
    num_heads: _Counts = (3, 6, 12, 24)
    window_size: _Side = 7
    mlp_ratio: Ratio = 4.0
    qkv_bias: Literal[True] = True
    hidden_dropout_prob: DropRate = 0.0
    attention_probs_dropout_prob: DropRate = 0.0
    drop_path_rate: DropRate = 0.1
    hidden_act: Literal["gelu"] = "gelu"
    use_absolute_embeddings: Literal[False] = False
    layer_norm_eps: Rate = 1e-5
    full_windows: bool | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {"full_windows": True, **given} if naming == "torchvision" else given

    def _check(self) -> None:
        self._as_many("depths", "num_heads")


def _named(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"swin_(tiny|small|base|large)_patch(\d{1,2})_window(\d{1,2})_(\d{1,4})", name)
    if found:
        kind, patch, window, image = found[1], *map(int, found.groups()[1:])
    elif name in _RESIZED:
        kind = next(kind for kind in _SIZES if kind[0] == name[-1])
        patch, window, image = 4, 7, 224
    else:
        return None
    width, depths, heads = _SIZES[kind]
    config = {"embed_dim": width, "depths": depths, "num_heads": heads}
    config |= {"patch_size": patch, "window_size": window, "image_size": image}
    return changed({"model_type": "swin", **config}, changes, _WORDS)


def _backbone(config: SwinConfig) -> Model:
    return swin(
        (config.embed_dim, list(zip(config.depths, config.num_heads, strict=True))),
        window=config.window_size,
        patch=config.patch_size,
        full_windows=bool(config.full_windows),
        mlp_ratio=config.mlp_ratio,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        drop_path=config.drop_path_rate,
    )


def _tables(config: SwinConfig) -> dict[str, Sequence[Rule]]:
    return {
        "transformers": maps.transformers(),
        "timm": maps.timm(),
        "torchvision": maps.torchvision(len(config.depths)),
        "original": maps.original(),
    }


def _usual(name: str, config: SwinConfig) -> Preprocessing:
    if name in _RESIZED:
        return Preprocessing(_RESIZED[name], 224, "bicubic", *IMAGENET)
    side = config.image_size
    return Preprocessing(int(side / 0.9) if side < 384 else side, side, "bicubic", *IMAGENET)


FAMILIES = (
    Family(
        names="swin_{tiny,small,base,large}_patch4_window7_224, swin_{base,large}_patch4_window12_384, swin_{t,s,b}",
        named=_named,
        config=SwinConfig,
        backbone=_backbone,
        example=lambda config: picture(config.patch_size << len(config.depths), config.num_channels),
        tables=_tables,
        usual=_usual,
        architecture="SwinForImageClassification",
        torchvision=tuple(_RESIZED),
        depth=("depths", "num_heads", "num_layers"),
    ),
)
