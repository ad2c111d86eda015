"""The pretrained network of a run: which it is, and from files or texts to its input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jtl.backbones.registry import FAMILIES
from jtl.command.pictures import refuse_broken
from jtl.params import flatten
from jtl.preprocess import audio, pixels, text
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import IMAGENET, Preprocessing, transform
from jtl.pretrained.inspect import fits
from jtl.pretrained.load import POSITION, Pretrained, load
from jtl.pretrained.recognise import described
from jtl.weights.formats.hub import locate
from jtl.weights.formats.read import read

LONGEST = 128
"""Tokens of the longest text; more of it is not read."""
SECONDS = 10.0
"""The longest sound; more of it is not heard."""
STEP = 16
"""Texts are padded to a multiple of this many tokens."""


@dataclass(frozen=True)
class Inputs:
    """From files or texts to the input of a network.

    Args:
      preprocessing: of images.
      tokens: the tokenizer of texts.
      sound: the preprocessing of sounds.
      seconds: to which sounds are cut or padded; None where `sound` says it.
    """

    preprocessing: Preprocessing | None = None
    tokens: text.Tokenizer | None = None
    sound: Waves | LogMel | None = None
    seconds: float | None = None

    def note(self, items: Sequence[Any]) -> str | None:
        """On examples of which only the beginning is used, and images that are stored turned; None where none are."""
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
        """The note, where there is one."""
        return [] if (note := self.note(items)) is None else [note]

    def read(self, items: Sequence[Any], *, margin: float = 1.0) -> Any:
        """The input of some examples: floats [rows, side, side, 3], ids and masks of texts, or waves.

        Args:
          items: files, or texts.
          margin: images are this much larger than in evaluation, so that random windows of them can be taken.
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
    """`(x / 255 - mean) / std` of uint8 images, float32 [rows, height, width, channels], by NumPy.

    The bits are those of `jtl.data.augment.normalise`, as XLA multiplies by reciprocals too; no device takes part, so
    that reading does not wait for a training step.

    Raises:
      ValueError: for another number of channels, or a `std` that is not positive.
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
    """One file, resized and cropped, uint8 [height, width, channels].

    Args:
      file: of the image.
      how: the preprocessing of evaluation.
      margin: the result is this much larger than in evaluation, and shows at least as much of the image. Where the
        crop leaves no such margin, as with most transformers of images, the image is resized to more.
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
    """The side of the square that the network sees; None where it is no square, or not the same for all images."""
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

    A file that does not say which network it is for is recognised by its names and shapes. Position embeddings are
    interpolated to images of another size. `hint` ends the message on inputs of another kind.

    Raises:
      FileNotFoundError: where there are no such weights.
      ValueError: where no network, or more than one, fits the file, it takes inputs of another kind, or a parameter
        holds NaN or infinity, which maximum pooling and a threshold may hide from all that follows.
    """
    loaded = _loaded(weights, classes, arch, kind, key, size, hint)
    for path, leaf in flatten({"params": loaded.variables.params, "stats": loaded.variables.stats}).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"{weights!r} holds NaN or infinity in {path.partition('/')[2]!r}: give other weights")
    return loaded


def _loaded(
    weights: str, classes: Sequence[str] | None, arch: str | None, kind: str, key: Any, size: int | None, hint: str
) -> Pretrained:
    path = locate(str(Path(weights).expanduser()) if not weights.startswith(("hf:", "timm:")) else weights)
    if arch is None and (not path.is_dir() or described(path) is None):
        found = [fit for fit in fits(path, read(path)) if not fit.mismatched and not fit.absent]
        if not found:
            raise ValueError(f"no network that jtl knows fits all of {weights!r}: give --arch, or see `jtl inspect`")
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
    """What a network takes, by its family's example: tokens, pictures, waves or spectrograms; None for several."""
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
    """How examples become input, and the network with the preprocessing that is used, which a save keeps.

    To a network of waves without masks, padding is silence that it hears: its output depends on the length of the rows.
    So this length is that of the run, and not of the examples at hand.

    Args:
      loaded: the network.
      weights: where it comes from.
      kind: of the examples.
      items: the examples that decide the length of texts and sounds.
      size: of images.
      others: examples that are read too and do not belong to the run, as queries: texts and masked sounds are not cut
        by the length of `items`.
      seconds: the length of sounds in the run that made the network, for one without masks; None for the longest
        item's.
      checked: the images have gone through `refuse_broken`, which is not done again.

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
