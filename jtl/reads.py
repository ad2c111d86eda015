"""The features that a head reads: one vector per row, or whole tokens, maps and frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jtl import ops


class Masked(NamedTuple):
    """A feature with the positions that count.

    Args:
      values: [batch, positions, dim].
      mask: [batch, positions] bool.
    """

    values: Any
    mask: Any


@dataclass(frozen=True)
class Read:
    """Which features a head takes, and in which form; it is saved with a network.

    Args:
      names: the names of the backbone's features.
      form: "vector" is one vector per row: maps [b, h, w, c] and sequences [b, n, d] are averaged over their positions
        (texts over their tokens, sounds over their frames, so padding changes nothing), and several features are
        concatenated, [b, dim]. "whole" is the feature as it is; several features are a dict by name.
      masked: a "whole" sequence is passed as `Masked`, with the mask of its input.

    Raises:
      ValueError: if there are no names, for another form, or for a masked vector.
    """

    names: tuple[str, ...] = ("pooled",)
    form: str = "vector"
    masked: bool = False

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"names={self.names!r}: give the names of the features that a head reads")
        if self.form not in ("vector", "whole"):
            raise ValueError(f"form={self.form!r}: 'vector' or 'whole'")
        if self.masked and self.form == "vector":
            raise ValueError("masked=True: a vector has no positions; read the feature with form='whole'")

    def __call__(self, features: Any, x: Any = None) -> Any:
        """The input of a head.

        Args:
          features: the backbone's features by name; `frames` [b, n] marks the positions that belong to a sound.
          x: the input of the backbone; the `mask` [b, n] of a text marks its tokens.

        Raises:
          TypeError: if features have no names: for an array, or for the output of a network and not of its backbone.
          ValueError: for a name that the backbone does not return, or a sequence without a mask.
        """
        if isinstance(features, Array):
            raise TypeError(
                f"the backbone returns an array of shape {features.shape}, and a head reads features by name: return a"
                " dict of them, as {'pooled': x}"
            )
        if not isinstance(features, Mapping):
            raise TypeError(
                f"features are {type(features).__name__}, and a head reads them by name: give what a backbone returns,"
                " not the output of a network that has its head"
            )
        missing = [name for name in self.names if name not in features]
        if missing:
            raise ValueError(f"a head reads the feature {missing[0]!r}; the backbone returns {sorted(features)}")
        masks = _masks(features, x)
        if self.form == "vector":
            vectors = [_vector(features[name], masks) for name in self.names]
            return vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors, -1)
        found = {name: self._whole(name, features[name], masks) for name in self.names}
        return found[self.names[0]] if len(self.names) == 1 else found

    def _whole(self, name: str, feature: Any, masks: list[Array]) -> Any:
        if not self.masked:
            return feature
        mask = _mask_of(feature.shape, masks)
        if mask is None:
            raise ValueError(f"feature {name!r} of shape {feature.shape} comes without a mask; give the input one")
        return Masked(feature, mask)


def reads(names: str | Sequence[str]) -> Read:
    """One vector per row, of one feature or of several concatenated: for `linear` and the other classifiers.

    Example:
      >>> from jtl.reads import reads
      >>> reads("mean").names
      ('mean',)
    """
    return Read((names,) if isinstance(names, str) else tuple(names))


def whole(*names: str, masked: bool = False) -> Read:
    """Features as they are: the tokens of a text [b, n, d], the map of an image [b, h, w, c], the frames of a sound.

    Args:
      names: the names of the features; with several the head is given a dict.
      masked: pass sequences as `Masked`.

    Example:
      >>> from jtl.reads import whole
      >>> whole("stage3", "stage4").form
      'whole'
    """
    return Read(names, "whole", masked)


def positions(shape: tuple[int, ...], features: Mapping[str, Any], x: Any) -> Array | None:
    """The mask [batch, positions] of the tokens or frames that values of this shape belong to; None if there is none.

    Args:
      shape: the shape of values [batch, positions, dim]; other values have no mask.
      features: the features of a backbone; "frames" is the mask of a sound's frames.
      x: the input; "mask" is the mask of a text's tokens.

    Example:
      >>> import numpy as np
      >>> from jtl.reads import positions
      >>> positions((1, 3, 8), {}, {"mask": np.array([[True, True, False]])}).tolist()
      [[True, True, False]]
    """
    return _mask_of(shape, _masks(features, x))


def _masks(features: Mapping[str, Any], x: Any) -> list[Array]:
    given = [features.get("frames"), x.get("mask") if isinstance(x, Mapping) else None]
    return [jnp.asarray(mask) for mask in given if mask is not None]


def _mask_of(shape: tuple[int, ...], masks: list[Array]) -> Array | None:
    return next((mask for mask in masks if len(shape) == 3 and mask.shape == shape[:2]), None)


def _vector(feature: Any, masks: list[Array]) -> Any:
    mask = _mask_of(feature.shape, masks)
    if mask is not None:
        return ops.mean_of_tokens(jnp.asarray(feature), mask)
    return feature.mean(tuple(range(1, feature.ndim - 1))) if feature.ndim > 2 else feature
