"""The pretrained network of a run, and the conversion of files or texts to its input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jtl.backbones.registry import FAMILIES
from jtl.command.pictures import refuse_broken
from jtl.command.unit import forgotten
from jtl.params import flatten
from jtl.preprocess import audio, pixels, text
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import IMAGENET, Preprocessing, transform
from jtl.pretrained.folded import unadvised
from jtl.pretrained.inspect import UNTOLD, exact
from jtl.pretrained.load import POSITION, Pretrained, load
from jtl.pretrained.recognise import described, refuse_adapter
from jtl.weights.formats.hub import locate
from jtl.weights.formats.read import read

ARCH = """--arch (jtl rank: a folder of the file and a config.json, {"architecture": NAME})"""
"""Where the name of a network is given, for messages."""
LONGEST = 128
"""The most tokens of a text that are read; a longer text is cut."""
SECONDS = 10.0
"""The most seconds of a sound that are read; a longer sound is cut."""
STEP = 16
"""Texts are padded to a multiple of this many tokens."""


@dataclass(frozen=True)
class Inputs:
    """Converts files or texts to the input of a network.

    Args:
      preprocessing: the preprocessing of images.
      tokens: the tokenizer of texts.
      sound: the preprocessing of sounds.
      seconds: the length to which sounds are cut or padded; None if `sound` specifies it.
    """

    preprocessing: Preprocessing | None = None
    tokens: text.Tokenizer | None = None
    sound: Waves | LogMel | None = None
    seconds: float | None = None

    def note(self, items: Sequence[Any]) -> str | None:
        """Returns a note on examples that are cut, or on images that are stored rotated; None if there are none."""
        if self.tokens is not None:
            limit = self.tokens.length
            many, most = sum(count > limit for count in self.tokens.counts(list(items))), f"{limit} tokens"
        elif self.sound is not None:
            limit = self.sound.seconds if isinstance(self.sound, LogMel) else self.seconds or SECONDS
            many, most = sum(audio.duration(item) > limit for item in items), f"{round(limit, 3):g} seconds"
        else:
            many = sum(pixels.turned(item) for item in items)
            what = f"{many} of {len(items)} images have a stored orientation (EXIF) that is not applied"
            return f"{what}: rotate the files if the network should see them upright" if many else None
        what = "sounds" if self.tokens is None else "texts"
        return f"{many} of {len(items)} {what} are longer than {most}: the rest of these is not used" if many else None

    def notes(self, items: Sequence[Any]) -> list[str]:
        """Returns a list with the note, or an empty list."""
        return [] if (note := self.note(items)) is None else [note]

    def read(self, items: Sequence[Any], *, margin: float = 1.0) -> Any:
        """Reads the input of some examples: floats [rows, side, side, 3], ids and masks of texts, or waves.

        Args:
          items: files, or texts.
          margin: images are larger by this factor than in evaluation, so that random windows can be cut from them.
        """
        if self.tokens is not None:
            return self.tokens(list(items))
        if self.sound is not None:
            return audio.inputs(self.sound, list(items), seconds=self.seconds)
        assert self.preprocessing is not None
        rows = [image(Path(item), self.preprocessing, margin) for item in items]
        for item, row in zip(items, rows, strict=True):
            if row.shape != rows[0].shape:
                raise ValueError(
                    f"these weights do not resize images, and {str(item)!r} has {row.shape[0]} x {row.shape[1]} pixels,"
                    f" but {str(items[0])!r} has {rows[0].shape[0]} x {rows[0].shape[1]}: give --size"
                )
        return normalised(np.stack(rows), self.preprocessing.mean, self.preprocessing.std)


def normalised(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Computes `(x / 255 - mean) / std` of uint8 images in NumPy, float32 [rows, height, width, channels].

    The result is bitwise equal to that of `jtl.data.augment.normalise`, because XLA multiplies by reciprocals too. No
    device is involved, so reading does not wait for a training step.

    Raises:
      ValueError: if the numbers of channels differ, or a `std` is not positive.
    """
    rows, height, width, channels = images.shape
    if not channels == len(mean) == len(std) or not all(s > 0 for s in std):
        raise ValueError(f"images of {channels} channels need as many numbers, std positive: mean {mean} and std {std}")
    # Along whole rows of an image, because NumPy's inner loop over three channels takes ten times as long.
    found = images.reshape(rows, height, width * channels).astype(np.float32)
    found *= np.float32(1 / 255)
    found -= np.tile(np.array(mean, np.float32), width)
    found *= np.tile(1 / np.array(std, np.float32), width)
    return found.reshape(images.shape)


def image(file: Path, how: Preprocessing, margin: float = 1.0) -> np.ndarray:
    """Reads one image, resized and cropped, uint8 [height, width, channels].

    Args:
      file: the image file.
      how: the preprocessing of evaluation.
      margin: the result is larger by this factor than in evaluation, and shows at least as much of the image. If the
        crop leaves no such margin, as with most vision transformers, the image is resized to a larger size.
    """
    seen = pixels.decode(file, "L" if len(how.mean) == 1 else "RGB")
    if margin > 1 and (side := side_of(how)) is not None:
        size, crop = how.size, round(side * margin)
        if isinstance(size, int):
            size = max(size, crop)
        elif size is not None:
            size = (max(size[0], crop), max(size[1], crop))
        how = how._replace(size=size, crop=crop)
    return transform(how)(seen)


def side_of(how: Preprocessing) -> int | None:
    """Returns the side of the square that the network sees; None if it is not a square, or varies between images."""
    if how.crop is not None:
        return how.crop
    edges = (how.size,) * 2 if isinstance(how.size, int) else how.size
    return None if edges is None or edges[0] != edges[1] else edges[0]


def pretrained(
    weights: str,
    classes: Sequence[str] | None,
    *,
    arch: str | None,
    kind: str,
    key: Any,
    size: int | None = None,
    hint: str = "",
) -> Pretrained:
    """Loads weights with a new head for these classes; None keeps the file's own head.

    If a file does not say which network it is for, its tensor names and shapes decide, if only one network fits them.
    Position embeddings are interpolated to images of another size. `hint` ends the message on inputs of another kind.

    Raises:
      FileNotFoundError: if there are no such weights.
      ValueError: if no network or several fit the file, it is the folder of a PEFT adapter, the network takes inputs of
        another kind, or a parameter holds NaN or infinity, which maximum pooling and thresholds may hide from all later
        checks.
    """
    with unadvised():  # the commands that train keep folded statistics, and note it
        loaded = _loaded(weights, classes, arch, kind, key, size, hint)
    if classes is not None:
        loaded = loaded._replace(config=forgotten(loaded.config))
    for path, leaf in flatten({"params": loaded.variables.params, "stats": loaded.variables.stats}).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"{weights!r} holds NaN or infinity in {path.partition('/')[2]!r}: give other weights")
    return loaded


def _loaded(
    weights: str, classes: Sequence[str] | None, arch: str | None, kind: str, key: Any, size: int | None, hint: str
) -> Pretrained:
    path = locate(str(Path(weights).expanduser()) if not weights.startswith(("hf:", "timm:")) else weights)
    refuse_adapter(path)
    if arch is None and (not path.is_dir() or described(path) is None):
        found = exact(path, read(path))
        if not found:
            raise ValueError(f"no network that jtl knows fits all of {weights!r}: give {ARCH}, or see `jtl inspect`")
        if len(found) > 1:
            names = ", ".join(fit.name for fit in found)
            raise ValueError(
                f"{weights!r} fits {names}, which differ in {UNTOLD}: give the one that these weights were trained as"
                f" by {ARCH}"
            )
        arch = found[0].name
    options: dict[str, Any] = {}
    if classes is not None:
        options = {"classes": tuple(classes), "reinit": ("head/.*",), "key": key}
    reads = "mean" if kind == "texts" and classes is not None else None
    try:
        loaded = load(weights, arch=arch, reads=reads, **options)
    except ValueError:
        if reads is not None:  # networks of images lack the feature
            _refuse_other(load(weights, arch=arch, **options), weights, kind, hint)
        raise
    _refuse_other(loaded, weights, kind, hint)
    if size is not None and POSITION in flatten(loaded.variables.params):
        return load(weights, arch=arch, image=size, **options)
    return loaded


def _refuse_other(loaded: Pretrained, weights: str, kind: str, hint: str) -> None:
    takes = kind_of(loaded)
    if takes not in (None, kind):
        raise ValueError(
            f"{weights!r} is a network of {takes}, and the data are {kind}: give weights that take {kind}{hint}"
        )


def kind_of(loaded: Pretrained) -> Literal["images", "sounds", "texts"] | None:
    """Returns the kind of input that a network takes, judged by its family's example; None for several kinds."""
    example = FAMILIES[loaded.config.model_type].example(loaded.config)
    if isinstance(example, Mapping):
        return "texts" if "ids" in example else "sounds" if "wave" in example else None
    return "images" if example.ndim == 4 else "sounds"


def inputs_of(
    loaded: Pretrained,
    weights: str,
    kind: str,
    items: Sequence[Any],
    size: int | None,
    *,
    others: Sequence[Any] = (),
    seconds: float | None = None,
    checked: bool = False,
) -> tuple[Inputs, Pretrained]:
    """Returns the converter of examples to input, and the network with its preprocessing updated, for saving.

    A network of waves without masks hears padding as silence, so its output depends on the length of the rows. That
    length is therefore the one of the run, not of the examples at hand.

    Args:
      loaded: the network.
      weights: the source of its weights and tokenizer.
      kind: the kind of the examples.
      items: the examples that decide the length of texts and sounds.
      size: side of the images in pixels; None for the network's own.
      others: other examples to be read, such as queries, which do not belong to the run: their texts and masked sounds
        are not cut to the length of `items`.
      seconds: for a network without masks, the length of sounds in the run that made the network; None for the length
        of the longest item.
      checked: whether the images have already passed `refuse_broken`.

    Raises:
      ValueError: for images and a network of texts, or the other way round; for images that cannot be read.
    """
    if kind == "sounds":
        if not isinstance(loaded.preprocessing, Waves | LogMel):
            raise ValueError(f"{weights!r} is no network of sounds, and the data are sounds")
        sound = loaded.preprocessing
        if isinstance(sound, LogMel):
            return Inputs(sound=sound), loaded
        if sound.masked or seconds is None:
            heard = [audio.length(item, sound.rate) for item in (*items, *(others if sound.masked else ()))]
            seconds = min(SECONDS, max(heard) / sound.rate) if heard else None
        return Inputs(sound=sound, seconds=seconds), loaded
    if kind == "texts":
        if loaded.tokenizer is None:
            raise ValueError(f"{weights!r} has no tokenizer beside it, so jtl cannot read texts for it")
        whole, given = text.tokenizer(weights, length=LONGEST), [*items, *others]
        longest = int(whole(given)["mask"].sum(1).max()) if given else LONGEST
        return Inputs(tokens=text.tokenizer(weights, length=min(LONGEST, -(-longest // STEP) * STEP))), loaded
    how = loaded.preprocessing
    if how is None:
        own = getattr(loaded.config, "image_size", None) if POSITION in flatten(loaded.variables.params) else None
        how = (
            Preprocessing((own, own), None, "bilinear", *IMAGENET)
            if own
            else Preprocessing(256, 224, "bilinear", *IMAGENET)
        )
    if not isinstance(how, Preprocessing):
        raise ValueError(f"{weights!r} takes no images, and the data are images")
    if not checked:
        refuse_broken([Path(item) for item in (*items, *others)])
    if size is not None and side_of(how) != size:
        how = how._replace(size=round(size * 256 / 224), crop=size)
    return Inputs(preprocessing=how), loaded._replace(preprocessing=how)
