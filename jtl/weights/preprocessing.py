"""What images must go through before a network sees them: it comes with the weights."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jtl.weights.errors import show

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Preprocessing(NamedTuple):
    """From uint8 images of any size to what the network was trained on: resize, crop the centre, normalise.

    `jtl.data` has each of the steps: `resize(image, size, interpolation)`, `center_crop(image, crop)`,
    `augment.normalise(mean, std)`.

    Args:
      size: of the short side in pixels, or (height, width); None leaves images as they are.
      crop: side of the square cut out of the centre; None for no crop.
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
      mean: per channel, of values in [0, 1].
      std: per channel.
    """

    size: int | tuple[int, int] | None
    crop: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def from_transformers(config: Mapping[str, Any]) -> Preprocessing:
    """What a `preprocessor_config.json` says.

    Raises:
      ValueError: for a size, a filter or a scale of values that is none of the usual.
    """
    if config.get("rescale_factor", 1 / 255) != 1 / 255:
        raise ValueError(f"rescale_factor={show(config['rescale_factor'])}: only 1/255 is known")
    size = _size(config.get("size")) if config.get("do_resize", True) else None
    crop = _side(config.get("crop_size")) if config.get("do_center_crop", False) else None
    if "ConvNext" in str(config.get("image_processor_type", config.get("feature_extractor_type", ""))):
        # Small images are resized to more than the crop by `crop_pct`, large ones to exactly the size.
        side = _side(config.get("size"))
        small = side < 384
        size = int(side / _share(config, 224 / 256)) if small else (side, side)
        crop = side if small else None
    if config.get("do_normalize", True):
        mean, std = _channels(config, "image_mean"), _channels(config, "image_std")
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    return Preprocessing(size, crop, _filter(config.get("resample", 2)), mean, std)


def to_transformers(preprocessing: Preprocessing) -> dict[str, Any]:
    """A `preprocessor_config.json` that transformers reads."""
    size, crop, interpolation, mean, std = preprocessing
    numbers = {name: number for number, name in _FILTERS.items()}
    config: dict[str, Any] = {
        # The processor that can do all of it: resize by the short side or to a size, and crop.
        "image_processor_type": "CLIPImageProcessor" if isinstance(size, int) or crop else "ViTImageProcessor",
        "do_resize": size is not None,
        "resample": numbers[interpolation],
        "do_center_crop": crop is not None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    if len(mean) != 3:
        config["do_convert_rgb"] = False  # which CLIP's does unless told, whatever the mean says
    if size is not None:
        config["size"] = {"shortest_edge": size} if isinstance(size, int) else {"height": size[0], "width": size[1]}
    if crop is not None:
        config["crop_size"] = {"height": crop, "width": crop}
    return config


def from_timm(config: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
    """What timm's `pretrained_cfg` says; `usual` is the family's where it says nothing.

    timm resizes the short side (both sides: "squash") to `image / crop_pct` and cuts the image out of the centre.

    Raises:
      ValueError: for an entry that is none of the usual.
    """
    if not isinstance(config.get("input_size"), (list, tuple)):
        raise ValueError("pretrained_cfg: give input_size=[channels, height, width]")
    side = _side(dict(zip(("height", "width"), config["input_size"][-2:], strict=False)))
    interpolation = config.get("interpolation", usual.interpolation)
    if interpolation not in _FILTERS.values():
        raise ValueError(f"interpolation={show(interpolation)}: known are {list(_FILTERS.values())}")
    mean = _channels(config, "mean") if "mean" in config else usual.mean
    std = _channels(config, "std") if "std" in config else usual.std
    resized = math.floor(side / _share(config, 0.875))
    if config.get("crop_mode") == "squash":
        return Preprocessing((resized, resized), None if resized == side else side, interpolation, mean, std)
    return Preprocessing(resized, side, interpolation, mean, std)


def to_timm(preprocessing: Preprocessing, channels: int) -> dict[str, Any]:
    """Entries of timm's `pretrained_cfg`.

    Args:
      preprocessing: what the weights need.
      channels: of the images.

    Raises:
      ValueError: timm always resizes, and cuts out squares.
    """
    size, crop, interpolation, mean, std = preprocessing
    if size is None or (crop is None and (isinstance(size, int) or size[0] != size[1])):
        raise ValueError(f"timm cannot say size={size}, crop={crop}: it resizes images and cuts out a square")
    side = size if isinstance(size, int) else size[0]
    crop = side if crop is None else crop
    if crop > side or (not isinstance(size, int) and size[0] != size[1]):
        raise ValueError(f"timm cannot say size={size}, crop={crop}: it cuts a square out of what was resized")
    share = crop / side
    while math.floor(crop / share) < side:  # timm divides, and rounds down
        share = math.nextafter(share, 0)
    return {
        "input_size": [channels, crop, crop],
        "interpolation": interpolation,
        "crop_pct": share,
        "crop_mode": "center" if isinstance(size, int) else "squash",
        "mean": list(mean),
        "std": list(std),
    }


def _share(config: Mapping[str, Any], usual: float) -> float:
    share = config.get("crop_pct", usual)
    if type(share) not in (int, float) or not 0.1 <= share <= 1:
        raise ValueError(f"crop_pct={show(share)}: give a number from 0.1 to 1")
    return share


def _channels(config: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = config.get(name)
    if not isinstance(values, (list, tuple)) or not values or not all(type(v) in (int, float) for v in values):
        raise ValueError(f"{name}={show(str(values))}: give a number for each channel")
    return tuple(map(float, values))


def _size(size: Any) -> int | tuple[int, int]:
    if isinstance(size, int):
        size = {"height": size, "width": size}
    names = set(size) if isinstance(size, Mapping) else None
    if names not in ({"height", "width"}, {"shortest_edge"}) or not all(_pixels(v) for v in size.values()):
        raise ValueError(f"size={show(str(size))}: give {{height, width}}, {{shortest_edge}} or a number of pixels")
    return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])


def _pixels(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 1 << 16


def _side(size: Any) -> int:
    found = _size(size)
    sides = {found} if isinstance(found, int) else set(found)
    if len(sides) != 1:
        raise ValueError(f"size={show(str(size))}: only squares are cut out")
    return sides.pop()


def _filter(number: Any) -> str:
    if type(number) is not int or number not in _FILTERS:
        raise ValueError(f"resample={show(number)}: known are {_FILTERS}")
    return _FILTERS[number]
