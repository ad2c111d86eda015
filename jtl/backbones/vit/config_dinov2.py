"""DINOv2, without registers and with."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl import backbones
from jtl.backbones.family import Config, Family, changed, choice, must_be, picture, real, whole
from jtl.backbones.vit import names_dinov2 as maps
from jtl.backbones.vit.config import SIZES, WORDS
from jtl.model import Model
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.weights.mapping.rules import Rule

_PLAIN, _REGISTERS = "dinov2", "dinov2_with_registers"
_TOKEN, _BOTH = "token", "token+mean"


def _named(kind: str, name: str, changes: Mapping[str, Any]) -> Config | None:
    found = re.fullmatch(r"vit_(small|base|large|giant)_patch14_(reg4_|)dinov2", name)
    if not found or (kind == _REGISTERS) != bool(found[2]):
        return None
    giant = found[1] == "giant"
    width, depth, heads = (1536, 40, 24) if giant else SIZES[found[1]]
    if giant and "mlp_ratio" in changes:  # timm counts the gates too, transformers as if there were none
        real(changes, "mlp_ratio", 64)
        changes = {**changes, "mlp_ratio": 0.75 * changes["mlp_ratio"]}
    config: Config = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": 14,
        "image_size": 518,
        "mlp_ratio": 4,
        "layerscale_value": 1e-5,
        "use_swiglu_ffn": giant,
        **({"num_register_tokens": 4} if kind == _REGISTERS else {}),
    }
    words = {**WORDS, "reg_tokens": "num_register_tokens", "init_values": "layerscale_value", "global_pool": "pool"}
    return {"model_type": kind, **changed(config, changes, words)}


def _complete(config: Config, naming: str) -> Config:
    registers = config["model_type"] == _REGISTERS
    usual = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 16 if registers else 14,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "use_mask_token": naming != "timm",
        **({"num_register_tokens": 4} if registers else {}),
        **({"pool": _TOKEN} if naming == "timm" else {}),  # of its classifiers; transformers' see the patches too
    }
    config = {**usual, **config}
    whole(config, "hidden_size", "num_attention_heads", "image_size", "patch_size", "num_channels")
    whole(config, "num_hidden_layers", most=256)
    if registers:
        whole(config, "num_register_tokens", most=256)
    real(config, "mlp_ratio", 64)
    real(config, "layer_norm_eps", 1.0)
    real(config, "layerscale_value", 1e6)
    real(config, "attention_probs_dropout_prob", 1.0)
    choice(config, "use_swiglu_ffn", (False, True))
    if "pool" in config:
        choice(config, "pool", (_TOKEN, _BOTH))
    return config


def _headless(config: Config, naming: str) -> Config:
    """Without a classifier nothing says that the class token is classified alone."""
    return {"pool": _BOTH, **config} if naming == "timm" else config


def _backbone(config: Config) -> Model:
    must_be(config, hidden_act="gelu", qkv_bias=True)
    must_be(config, hidden_dropout_prob=0.0, drop_path_rate=0.0)
    width, swiglu = config["hidden_size"], config["use_swiglu_ffn"]
    hidden = int(width * config["mlp_ratio"])
    whole({"hidden_size * mlp_ratio": hidden}, "hidden_size * mlp_ratio")
    if swiglu:  # two thirds, up to a multiple of 8: as many numbers as without gates
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    size = backbones.Size(width, config["num_hidden_layers"], config["num_attention_heads"], hidden)
    return backbones.dinov2(
        size,
        patch=config["patch_size"],
        image=config["image_size"],
        eps=config["layer_norm_eps"],
        registers=config.get("num_register_tokens", 0),
        mask_token=bool(config["use_mask_token"]),
        layer_scale=config["layerscale_value"],
        antialias=config["model_type"] == _REGISTERS,
        attention_dropout=config["attention_probs_dropout_prob"],
        swiglu=swiglu,
        pool=config.get("pool", _BOTH),
    )


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    kind, swiglu = config["model_type"], config["use_swiglu_ffn"]
    timm = maps.timm(kind == _REGISTERS)
    if config.get("pool") == _TOKEN:
        return {"timm": timm}
    return {
        "transformers": maps.transformers(kind, swiglu),
        "timm": timm,
        "original": maps.original(swiglu),
    }


def _usual(name: str, config: Config) -> Preprocessing:
    return Preprocessing(config["image_size"], config["image_size"], "bicubic", *IMAGENET)


def _family(kind: str, names: str, architecture: str) -> Family:
    return Family(
        names=names,
        named=lambda name, changes: _named(kind, name, changes),
        complete=_complete,
        backbone=_backbone,
        example=lambda config: picture(config["image_size"], config["num_channels"]),
        tables=_tables,
        usual=_usual,
        architecture=architecture,
        headless=_headless,
        depth=("num_hidden_layers",),
    )


DINOV2 = _family(_PLAIN, "vit_{small,base,large,giant}_patch14_dinov2", "Dinov2ForImageClassification")
DINOV2_WITH_REGISTERS = _family(
    _REGISTERS, "vit_{small,base,large,giant}_patch14_reg4_dinov2", "Dinov2WithRegistersForImageClassification"
)
