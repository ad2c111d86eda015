"""The image towers of CLIP and SigLIP in timm: vision transformers, most of them with a classifier."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.backbones.clip import names_timm as maps
from jtl.backbones.clip.network import clip_image
from jtl.backbones.config import Rate, Zero
from jtl.backbones.family import Family, picture
from jtl.backbones.siglip.network import siglip_image
from jtl.backbones.vit import config as vit
from jtl.preprocess.image import HALF, OPENAI, Preprocessing
from jtl.weights.mapping.rules import Rule

_CLIP = r"vit_(xsmall|medium|betwixt|base|base_plus|large|huge|giant|gigantic)_patch(\d+)_clip_(?:quickgelu_|)(\d+)"
_SIGLIP = r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(?:gap_|)(\d+)"


class TimmClipConfig(vit.VisionConfig, model_type="timm_clip"):
    """The config of timm's image tower of CLIP."""

    layer_norm_eps: Rate = 1e-5
    hidden_act: Literal["gelu", "quick_gelu"] = "gelu"
    hidden_dropout_prob: Zero = 0.0


class TimmSiglipConfig(vit.VisionConfig, model_type="timm_siglip"):
    """The config of timm's image tower of SigLIP."""

    hidden_act: Literal["gelu", "gelu_tanh"] = "gelu"
    hidden_dropout_prob: Zero = 0.0
    pool: Literal["attention", "mean"] = "attention"


def _measures(config: TimmClipConfig | TimmSiglipConfig) -> dict[str, Any]:
    return {
        "size": config.size,
        "patch": config.patch_size,
        "image": config.image_size,
        "eps": config.layer_norm_eps,
        "attention_dropout": config.attention_probs_dropout_prob,
        "activation": config.hidden_act,
    }


def _named_clip(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    config = vit.named("timm_clip", _CLIP, name.replace("base_patch16_plus", "base_plus_patch16"), changes)
    return None if config is None else {**config, "hidden_act": "quick_gelu" if "quickgelu" in name else "gelu"}


def _usual_clip(name: str, config: TimmClipConfig) -> Preprocessing:
    """The preprocessing of OpenAI's release; that of timm's weights varies under the same name."""
    return Preprocessing(config.image_size, config.image_size, "bicubic", *OPENAI)


def _named_siglip(name: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    config = vit.named("timm_siglip", _SIGLIP, name, changes)
    if config is None:
        return None
    # timm uses the exact GELU in the towers that it added first, although they were trained with the tanh form.
    tanh = re.match(r"vit_(base_patch32|so400m_patch16|giantopt)_|vit_large_patch16_siglip_(gap_)?512", name)
    pool = "mean" if "_gap_" in name else "attention"
    return {**config, "hidden_act": "gelu_tanh" if tanh else "gelu", "pool": pool}


def _tables_siglip(config: TimmSiglipConfig) -> dict[str, Sequence[Rule]]:
    return {"timm": maps.siglip() if config.pool == "attention" else maps.siglip_gap()}


def _usual_siglip(name: str, config: TimmSiglipConfig) -> Preprocessing:
    """The preprocessing in timm."""
    side = config.image_size
    whole = name.startswith("vit_so400m_patch14_siglip_gap_") and side >= 384
    return Preprocessing(side if whole else int(side / 0.9), side, "bicubic", *HALF)


TIMM_CLIP = Family(
    names="vit_base_patch32_clip_{224,256,384,448}, vit_base_patch16_{clip_224,clip_384,plus_clip_240}, "
    "vit_xsmall_patch16_clip_224, "
    "vit_medium_patch{16,32}_clip_224, vit_betwixt_patch32_clip_224, vit_large_patch14_clip_{,quickgelu_}{224,336}, "
    "vit_base_patch{16,32}_clip_quickgelu_224, vit_huge_patch14_clip_{,quickgelu_}{224,378}, "
    "vit_huge_patch14_clip_336, vit_giant_patch14_clip_224, vit_gigantic_patch14_clip_{224,378,quickgelu_224}",
    named=_named_clip,
    config=TimmClipConfig,
    backbone=lambda config: clip_image(**_measures(config), projection=None),
    example=lambda config: picture(config.image_size, config.num_channels),
    tables=lambda config: {"timm": maps.clip()},
    usual=_usual_clip,
    depth=("num_hidden_layers",),
)
TIMM_SIGLIP = Family(
    names="vit_base_patch32_siglip_{,gap_}256, vit_base_patch16_siglip_{,gap_}{224,256,384,512}, "
    "vit_{large,so400m}_patch16_siglip_{,gap_}{256,384,512}, vit_so400m_patch14_siglip_{,gap_}{224,378,384}, "
    "vit_so400m_patch14_siglip_gap_{448,896}, vit_giantopt_patch16_siglip_{,gap_}{256,384}",
    named=_named_siglip,
    config=TimmSiglipConfig,
    backbone=lambda config: siglip_image(**_measures(config), pool=config.pool),
    example=lambda config: picture(config.image_size, config.num_channels),
    tables=_tables_siglip,
    usual=_usual_siglip,
    depth=("num_hidden_layers",),
)
FAMILIES = (TIMM_CLIP, TIMM_SIGLIP)
