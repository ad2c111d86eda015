"""CLIP and SigLIP: both towers, or one of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl import backbones
from jtl.backbones.clip import names as maps
from jtl.backbones.clip import names_open_clip
from jtl.backbones.family import Config, Family, must_be, picture, real, whole
from jtl.model import Model
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

BARE = "transformers, without a projection"
"""The naming of a file of one of CLIP's towers that ends before the common space."""

_SIZE = {"num_hidden_layers": 12, "num_attention_heads": 12, "attention_dropout": 0.0}
_IMAGE = {**_SIZE, "hidden_size": 768, "intermediate_size": 3072, "num_channels": 3, "image_size": 224}
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_TEXT = {
    **_SIZE,
    "num_attention_heads": 8,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_SIGLIP_TEXT = {
    **_SIZE,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": None,
}


class _Tower(NamedTuple):
    """What transformers leaves to its defaults, the network, the names of its tensors, and an example."""

    usual: Mapping[str, Any]
    backbone: Callable[[Config], Model]
    table: Callable[[str, str], list[Rule]]
    example: Callable[[Config], Any]


def _size(config: Config) -> backbones.Size:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return backbones.Size(*(config[name] for name in names))


def _common(config: Config) -> dict[str, Any]:
    return {"eps": config["layer_norm_eps"], "attention_dropout": config["attention_dropout"]}


def _projects(config: Config) -> bool:
    return "projection_dim" in config and config.get("with_projection") is not False


def _clip_common(config: Config) -> dict[str, Any]:
    act = config["hidden_act"]
    if act not in ("quick_gelu", "gelu"):
        raise ValueError(f"hidden_act={show(str(act))}: known are quick_gelu and gelu")
    return {**_common(config), "activation": act, "projection": config["projection_dim"] if _projects(config) else None}


def _clip_image(config: Config) -> Model:
    common = _clip_common(config)
    return backbones.clip_image(_size(config), patch=config["patch_size"], image=config["image_size"], **common)


def _clip_text(config: Config) -> Model:
    end = config["eos_token_id"]
    if type(end) is not int or end < 0:
        raise ValueError(f"eos_token_id={show(str(end))}: give the number of the token that ends a text")
    return backbones.clip_text(
        _size(config),
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        end=None if end == 2 else end,  # as transformers reads the configs of the first releases, which were wrong
        **_clip_common(config),
    )


def _siglip_image(config: Config) -> Model:
    must_be(config, hidden_act="gelu_pytorch_tanh", vision_use_head=True)
    common = _common(config)
    return backbones.siglip_image(_size(config), patch=config["patch_size"], image=config["image_size"], **common)


def _siglip_text(config: Config) -> Model:
    must_be(config, hidden_act="gelu_pytorch_tanh")
    return backbones.siglip_text(
        _size(config),
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        projection=config["projection_size"],
        **_common(config),
    )


def _picture(config: Config) -> Any:
    return picture(config["image_size"], config["num_channels"])


def _sentence(config: Config) -> Any:
    shape = (1, config["max_position_embeddings"])
    return {"ids": jax.ShapeDtypeStruct(shape, jnp.int32), "mask": jax.ShapeDtypeStruct(shape, jnp.bool_)}


_TOWERS = {
    "clip_vision_model": _Tower({**_IMAGE, "patch_size": 32, **_CLIP}, _clip_image, maps.clip_image, _picture),
    "clip_text_model": _Tower({**_TEXT, **_CLIP}, _clip_text, maps.clip_text, _sentence),
    "siglip_vision_model": _Tower(
        {**_IMAGE, "patch_size": 16, "vision_use_head": True, **_SIGLIP}, _siglip_image, maps.siglip_image, _picture
    ),
    "siglip_text_model": _Tower({**_SIGLIP_TEXT, **_SIGLIP}, _siglip_text, maps.siglip_text, _sentence),
}


_WHOLE = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "num_channels",
    "max_position_embeddings",
    "projection_dim",
    "projection_size",
)


def _complete(config: Config, naming: str) -> Config:
    """Of one tower."""
    config = {**_TOWERS[config["model_type"]].usual, **config}
    if "projection_size" in config and config["projection_size"] is None:
        config["projection_size"] = config["hidden_size"]
    whole(config, *(name for name in _WHOLE if name in config))
    whole(config, "num_hidden_layers", most=256)
    if "vocab_size" in config:
        whole(config, "vocab_size", most=1 << 24)
    real(config, "layer_norm_eps", 1.0)
    real(config, "attention_dropout", 1.0)
    return {**config, "with_projection": False} if naming == BARE else config


def _backbone(config: Config) -> Model:
    made = _TOWERS[config["model_type"]].backbone(config)
    return backbones.normalised(made) if config.get("normalised") is True else made


def _tables(config: Config) -> dict[str, Sequence[Rule]]:
    kind = config["model_type"]
    part = "vision_model" if "vision" in kind else "text_model"
    # Without a projection nothing stands beside the tower, and transformers writes no prefix since its version 5.
    top = rf"(?:|{part}\.)" if not _projects(config) else rf"(?:{part}\.|)"
    table = _TOWERS[kind].table("backbone", top)
    if not kind.startswith("clip"):
        return {"transformers": table}
    projection = "backbone/projection/kernel"
    return {BARE: [rule for rule in table if rule.path != projection], "transformers": table}


def _bare(config: Config) -> str:
    name = {
        "clip_vision_model": "CLIPVisionModel",
        "clip_text_model": "CLIPTextModel",
        "siglip_vision_model": "SiglipVisionModel",
        "siglip_text_model": "SiglipTextModel",
    }[config["model_type"]]
    return name + ("WithProjection" if _projects(config) else "")


def _tower(kind: str) -> Family:
    return Family(
        names="",
        named=lambda name, changes: None,
        complete=_complete,
        backbone=_backbone,
        example=lambda config: _TOWERS[kind].example(config),
        tables=_tables,
        usual=lambda name, config: None,
        architecture=None,
        bare=_bare,
        depth=("num_hidden_layers",),
    )


TOWERS = {kind: _tower(kind) for kind in _TOWERS}


def _both_complete(config: Config, naming: str) -> Config:
    kind = config["model_type"]
    if config.get("architectures") in (["CLIPForImageClassification"], ["SiglipForImageClassification"]):
        raise ValueError(
            f"{config['architectures'][0]} classifies the mean of an image tower's patches and is not read, only the "
            f"tower: give arch= what its config.json has as 'vision_config', with model_type='{kind}_vision_model', "
            r"and unused=('classifier\\..*',)"
        )
    config = {"projection_dim": 512, **config} if kind == "clip" else dict(config)
    for part in ("text", "vision"):
        given = config.get(f"{part}_config") or {}
        later = config.pop(f"{part}_config_dict", None)  # in old files, where it goes before the other
        for value in (given, {} if later is None else later):
            if not isinstance(value, Mapping):
                raise ValueError(f"{part}_config={show(str(value))}: give names and values")
        tower = f"{kind}_{part}_model"
        own = {**given, **({} if later is None else {**_TOWERS[tower].usual, **later}), "model_type": tower}
        own |= {"projection_dim": config["projection_dim"]} if kind == "clip" else {}
        config[f"{part}_config"] = _complete(own, naming)
    return config


def _both_backbone(config: Config) -> Model:
    image, text = config["vision_config"], config["text_config"]
    siglip = config["model_type"] == "siglip"
    if siglip:
        must_be(text, projection_size=image["hidden_size"])
    return backbones.two_towers(_backbone(image), _backbone(text), bias=siglip)


def _both_tables(config: Config) -> dict[str, Sequence[Rule]]:
    siglip = config["model_type"] == "siglip"
    scale = maps.scale_of_siglip() if siglip else maps.scale()
    rules = list(scale)
    for part, path in (("vision", "image"), ("text", "text")):
        own = config[f"{part}_config"]
        rules += _TOWERS[own["model_type"]].table(f"backbone/{path}", rf"{part}_model\.")
    if siglip:
        return {"transformers": rules}
    return {"transformers": rules, "open_clip": [*scale, *names_open_clip.clip()]}


def _both_example(config: Config) -> Any:
    return {"image": _picture(config["vision_config"]), "text": _sentence(config["text_config"])}


def _both() -> Family:
    return Family(
        names="",
        named=lambda name, changes: None,
        complete=_both_complete,
        backbone=_both_backbone,
        example=_both_example,
        tables=_both_tables,
        usual=lambda name, config: None,
        architecture=None,
        bare=lambda config: {"clip": "CLIPModel", "siglip": "SiglipModel"}[config["model_type"]],
    )


BOTH = {"clip": _both(), "siglip": _both()}
