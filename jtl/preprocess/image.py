"""The preprocessing of images, as specified with the weights."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from jtl.preprocess import pixels
from jtl.preprocess.image_defaults import completed
from jtl.weights.formats.errors import show

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_CORNER = "crop_corner"  # jtl's own entry in a `preprocessor_config.json`; other readers ignore it


class Preprocessing(NamedTuple):
    """Converts uint8 images of any size to the network's input: resize, crop the centre, normalise.

    `transform` returns a function for the first two steps, and `jtl.data.augment.normalise(mean, std)` for the last.

    Args:
      size: the size of the short side in pixels, or (height, width); None leaves images as they are.
      crop: the side of the square cut out of the centre; None for no crop.
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
      mean: the mean of each channel, for values in [0, 1].
      std: the standard deviation of each channel.
      corner: how the crop's position is rounded, "round" as in torchvision and timm, or "floor" as in transformers.
    """

    size: int | tuple[int, int] | None
    crop: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    corner: pixels.Corner = "round"


def transform(preprocessing: Any) -> Callable[..., pixels.Image]:
    """Returns the resizing and cropping of a preprocessing as a `transform` for `jtl.data.folder`.

    If only the short side has a size and there is no crop, the centre square is cut out, so that all images have the
    same shape. `jtl predict` applies this transform, and then the normalisation.

    Args:
      preprocessing: `jtl.load(...).preprocessing`.

    Returns:
      A function of an image, uint8 [height, width, channels] with 1, 3 or 4 channels, and of a random generator that it
      ignores; it raises a ValueError for anything else.

    Raises:
      ValueError: if `preprocessing` is None, or belongs to another kind of network.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess.image import IMAGENET, Preprocessing, transform
      >>> seen = transform(Preprocessing(256, 224, "bicubic", *IMAGENET))
      >>> seen(np.zeros((300, 400, 3), np.uint8)).shape
      (224, 224, 3)
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(
            f"preprocessing={preprocessing!r}: the weights came with no preprocessing of images; make one,"
            " jtl.preprocess.image.Preprocessing(size, crop, interpolation, mean, std), or give jtl.data.folder a size"
        )
    size, crop, interpolation = preprocessing[:3]
    if crop is None and isinstance(size, int):
        crop = size

    def resized(image: Any, rng: Any = None) -> pixels.Image:
        del rng
        pixels.check(image)
        image = image if size is None else pixels.resize(image, size, interpolation)
        return image if crop is None else pixels.center_crop(image, crop, preprocessing.corner)

    return resized


def from_transformers(config: Mapping[str, Any], kind: str = "vit") -> Preprocessing:
    """Reads the preprocessing of a `preprocessor_config.json`, completed by the defaults of its image processor.

    Args:
      config: of ViT's, DeiT's, CLIP's, SigLIP's, ConvNeXt's, BiT's, EfficientNet's or MobileNetV2's image processor.
      kind: the network's `model_type`, which determines the processor if the file does not name it.

    Raises:
      ValueError: for an unknown or invalid processor, size, filter or scale.

    Example:
      >>> from jtl.preprocess import image
      >>> config = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
      >>> image.from_transformers(config).size
      (224, 224)
    """
    name, config = completed(config, kind)
    square = config["default_to_square"]
    size = _size(config["size"], square=square) if config["do_resize"] else None
    crop = _side(config.get("crop_size"), "crop_size") if config["do_center_crop"] else None
    if name == "ConvNext" and config["do_resize"]:
        # Small images are resized to more than the crop by `crop_pct`, large ones to exactly the size.
        side = _side(config["size"])
        small = side < 384
        size = int(side / _share(config, 224 / 256)) if small else (side, side)
        crop = crop or (side if small else None)
    corner = config.get(_CORNER, _usual(crop))
    if corner not in get_args(pixels.Corner):
        raise ValueError(f"{_CORNER}={show(str(corner))}: give one of {list(get_args(pixels.Corner))}")
    return Preprocessing(size, crop, _filter(config["resample"]), *_scale(config), corner)


def _scale(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation for values in [0, 1] that equal the file's several steps on the numbers 0 to 255."""
    factor = config["rescale_factor"] if config["do_rescale"] else 1
    if type(factor) not in (int, float) or not 1e-6 <= factor <= 1:
        raise ValueError(f"rescale_factor={show(factor)}: give a number from 1e-6 to 1")
    wide = 255 * factor  # the scale's upper end
    offset = 1.0 if config["do_rescale"] and config["rescale_offset"] else 0.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config["do_normalize"]:
        mean, std = _channels(config, "image_mean"), _channels(config, "image_std")
    again = (1.0,) * len(std)
    if config["include_top"]:  # EfficientNet's classifiers were trained with two divisions by the deviation
        again = _channels(config, "image_std")
    return tuple((m + offset) / wide for m in mean), tuple(s * t / wide for s, t in zip(std, again, strict=True))


def to_transformers(preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns a `preprocessor_config.json` for transformers, which rounds the crop's corner down whatever it says.

    Example:
      >>> from jtl.preprocess import image
      >>> image.to_transformers(image.Preprocessing(256, 224, "bicubic", *image.IMAGENET))["size"]
      {'shortest_edge': 256}
    """
    size, crop, interpolation, mean, std, corner = preprocessing
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
    if corner != _usual(crop):
        config[_CORNER] = corner
    return config


def from_timm(config: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
    """Reads the preprocessing of timm's `pretrained_cfg`; `usual` is the family's default.

    timm resizes the short side (both sides: "squash") to `image / crop_pct` and cuts the image out of the centre.

    Raises:
      ValueError: for an unknown or invalid entry.

    Example:
      >>> from jtl.preprocess import image
      >>> usual = image.Preprocessing(256, 224, "bicubic", *image.IMAGENET)
      >>> image.from_timm({"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bilinear"}, usual)[:3]
      (248, 224, 'bilinear')
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
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode={show(mode)}: known are 'center' and 'squash'")
    if mode == "squash":
        return Preprocessing((resized, resized), None if resized == side else side, interpolation, mean, std)
    return Preprocessing(resized, side, interpolation, mean, std)


def _usual(crop: int | None) -> pixels.Corner:
    """Returns the default corner for transformers' configs; without a crop it has no effect."""
    return "round" if crop is None else "floor"


def to_timm(preprocessing: Preprocessing, channels: int) -> dict[str, Any]:
    """Returns entries of timm's `pretrained_cfg`; timm rounds the crop's corner to nearest in any case.

    Args:
      preprocessing: the preprocessing of the weights.
      channels: the number of channels of the images.

    Raises:
      ValueError: if timm cannot express it, because timm always resizes, and cuts out squares.

    Example:
      >>> from jtl.preprocess import image
      >>> config = image.to_timm(image.Preprocessing(256, 224, "bicubic", *image.IMAGENET), 3)
      >>> config["input_size"], config["crop_pct"]
      ([3, 224, 224], 0.875)
    """
    size, crop, interpolation, mean, std, _ = preprocessing
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


def _size(size: Any, name: str = "size", square: bool = True) -> int | tuple[int, int]:
    """Reads a size; `square` decides whether a single number means both sides, or the short one."""
    if type(size) is int:
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    names = set(size) if isinstance(size, Mapping) else None
    if names not in ({"height", "width"}, {"shortest_edge"}) or not all(_pixels(v) for v in size.values()):
        raise ValueError(f"{name}={show(str(size))}: give {{height, width}}, {{shortest_edge}} or a number of pixels")
    return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])


def _pixels(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 1 << 16


def _side(size: Any, name: str = "size") -> int:
    found = _size(size, name)
    sides = {found} if isinstance(found, int) else set(found)
    if len(sides) != 1:
        raise ValueError(f"{name}={show(str(size))}: only squares are cut out")
    return sides.pop()


def _filter(number: Any) -> str:
    if type(number) is not int or number not in _FILTERS:
        raise ValueError(f"resample={show(number)}: known are {_FILTERS}")
    return _FILTERS[number]
