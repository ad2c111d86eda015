"""The defaults of transformers' image processors, for entries that a `preprocessor_config.json` leaves out."""

import re
from collections.abc import Mapping
from typing import Any

from jtl.weights.formats.errors import show

_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "do_center_crop": True,
    "crop_size": 224,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIDE = {"height": 224, "width": 224}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": _SIDE, "resample": 2, **_HALF},
    "Siglip": {"size": _SIDE, "resample": 3, **_HALF, "default_to_square": False},
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "DeiT": {"size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3, **_HALF},
    "ConvNext": {"size": 384, "crop_pct": 224 / 256, "resample": 3, **_HALF, "default_to_square": False},
    "EfficientNet": {"size": 346, "crop_size": 289, "resample": 3, **_HALF, "include_top": True},
    "MobileNetV2": {**_CLIP, "size": 256, "resample": 2, **_HALF},
}
"""Default entries by the name of the processor's class, without those that all classes share."""
_OF_FAMILY = {
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "bit": "Bit",
    "deit": "DeiT",
    "convnext": "ConvNext",
    "resnet": "ConvNext",
    "efficientnet": "EfficientNet",
    "mobilenet_v2": "MobileNetV2",
}
_COMMON = {
    "default_to_square": True,
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "include_top": False,
}
_STEPS = {"rescale_offset", "include_top"}  # in addition to those whose names begin with do_
_HARMLESS = {"do_convert_rgb", "do_reduce_labels"}


def completed(config: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """Returns the processor's name, and its config with all entries; steps that are null become false.

    Args:
      config: a `preprocessor_config.json`.
      kind: the network's `model_type`, which determines the processor if the file does not name it.

    Raises:
      ValueError: for an unknown processor, or a step that jtl does not have.
    """
    said = config.get("image_processor_type") or config.get("feature_extractor_type")
    name = _name(said) if said else _OF_FAMILY.get(kind, "ViT")
    if name not in PROCESSORS:
        raise ValueError(f"image_processor_type={show(said)}: known are those of {', '.join(PROCESSORS)}")
    steps = {step: value for step, value in config.items() if step.startswith("do_") or step in _STEPS}
    for step, value in steps.items():
        if value is not None and type(value) is not bool:
            raise ValueError(f"{step[:50]}={show(str(value))}: give true or false")
        if value and step not in {*_COMMON, *_HARMLESS}:
            raise ValueError(f"{step[:50]}=True: jtl resizes, cuts out the centre and normalises, nothing else")
    given = {entry: value for entry, value in config.items() if value is not None}
    return name, {**_COMMON, **PROCESSORS[name], **given, **{step: bool(value) for step, value in steps.items()}}


def _name(said: Any) -> str:
    """Returns `CLIP` for CLIPFeatureExtractor, CLIPImageProcessor and CLIPImageProcessorFast."""
    return re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", said) if isinstance(said, str) else ""
