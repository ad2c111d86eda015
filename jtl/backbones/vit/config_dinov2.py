"""DINOv2, without and with registers."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from jtl.backbones.config import Config, Depth, Range, Rate, Ratio, Whole, Zero, read
from jtl.backbones.family import Family, changed, picture
from jtl.backbones.vit import names_dinov2 as maps
from jtl.backbones.vit.config import SIZES, WORDS
from jtl.backbones.vit.network import dinov2
from jtl.model import Model
from jtl.nn.sizes import Size
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_TOKEN: Literal["token"] = "token"
_BOTH: Literal["token+mean"] = "token+mean"


def _named(kind: str, name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = re.fullmatch(r"vit_(small|base|large|giant)_patch14_(reg4_|)dinov2", name)
    registers = kind == Dinov2WithRegistersConfig.model_type
    if not found or registers != bool(found[2]):
        return None
    giant = found[1] == "giant"
    width, depth, heads = (1536, 40, 24) if giant else SIZES[found[1]]
    if giant and "mlp_ratio" in changes:  # timm's ratio includes the gates, transformers' does not
        changes = {**changes, "mlp_ratio": 0.75 * read(Ratio, "mlp_ratio", changes["mlp_ratio"])}
    config = {
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": 14,
        "image_size": 518,
        "mlp_ratio": 4,
        "layerscale_value": 1e-5,
        "use_swiglu_ffn": giant,
    }
    words = {**WORDS, "init_values": "layerscale_value", "global_pool": "pool"}
    words |= {"reg_tokens": "num_register_tokens"} if registers else {}
    return changed(config, changes, words)


class Dinov2Config(Config, model_type="dinov2"):
    """The config of a DINOv2."""

    hidden_size: Whole = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Whole = 12
    mlp_ratio: Ratio = 4
    hidden_act: Literal["gelu"] = "gelu"
    hidden_dropout_prob: Zero = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    drop_path_rate: Zero = 0.0
    layer_norm_eps: Rate = 1e-6
    image_size: Whole = 224
    patch_size: Whole = 14
    num_channels: Whole = 3
    qkv_bias: Literal[True] = True
    layerscale_value: Annotated[float, Range(0, 1e6)] = 1.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True
    pool: Literal["token", "token+mean"] | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        # timm classifies only the class token; transformers' classifiers see the patches too.
        return {"use_mask_token": False, "pool": _TOKEN, **given} if naming == "timm" else given

    def _check(self) -> None:
        read(Whole, "hidden_size * mlp_ratio", int(self.hidden_size * self.mlp_ratio))


class Dinov2WithRegistersConfig(Dinov2Config, model_type="dinov2_with_registers"):
    """The config of a DINOv2 with registers."""

    patch_size: Whole = 16
    num_register_tokens: Depth = 4


def _headless(entries: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
    """Without a classifier nothing says that only the class token is classified."""
    return {"pool": _BOTH, **entries} if naming == "timm" else entries


C = TypeVar("C", bound=Dinov2Config)


def _backbone(config: Dinov2Config) -> Model:
    registers = isinstance(config, Dinov2WithRegistersConfig)
    hidden = int(config.hidden_size * config.mlp_ratio)
    if config.use_swiglu_ffn:  # two thirds, rounded up to a multiple of 8: as many parameters as without gates
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    return dinov2(
        Size(config.hidden_size, config.num_hidden_layers, config.num_attention_heads, hidden),
        patch=config.patch_size,
        image=config.image_size,
        eps=config.layer_norm_eps,
        registers=config.num_register_tokens if registers else 0,
        mask_token=config.use_mask_token,
        layer_scale=config.layerscale_value,
        antialias=registers,
        attention_dropout=config.attention_probs_dropout_prob,
        swiglu=config.use_swiglu_ffn,
        pool=config.pool or _BOTH,
    )


def _tables(config: Dinov2Config) -> dict[str, Sequence[Rule]]:
    kind, swiglu = config.model_type, config.use_swiglu_ffn
    timm = maps.timm(isinstance(config, Dinov2WithRegistersConfig))
    if config.pool == _TOKEN:
        return {"timm": timm}
    return {
        "transformers": maps.transformers(kind, swiglu),
        "timm": timm,
        "original": maps.original(swiglu),
    }


def _family(config: type[C], names: str, architecture: str) -> Family[C]:
    return Family(
        config=config,
        names=names,
        named=lambda name, changes: _named(config.model_type, name, changes),
        backbone=_backbone,
        example=lambda config: picture(config.image_size, config.num_channels),
        tables=_tables,
        usual=lambda name, config: Preprocessing(config.image_size, config.image_size, "bicubic", *IMAGENET),
        architecture=architecture,
        headless=_headless,
        depth=("num_hidden_layers",),
    )


FAMILIES = (
    _family(Dinov2Config, "vit_{small,base,large,giant}_patch14_dinov2", "Dinov2ForImageClassification"),
    _family(
        Dinov2WithRegistersConfig,
        "vit_{small,base,large,giant}_patch14_reg4_dinov2",
        "Dinov2WithRegistersForImageClassification",
    ),
)
