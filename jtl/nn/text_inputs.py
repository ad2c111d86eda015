"""Inputs that text backbones share."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jtl.nn.layers import described

_KNOWN = ("ids", "mask", "types", "segments", "places")


class Texts(NamedTuple):
    """A batch of texts.

    Args:
      ids: ids of the tokens.
      mask: true where there is a token.
      segments: the part of its text that a token belongs to; None if the input does not say.
      places: the position of a token, 0 where there is no token; None if the input does not say.
    """

    ids: Int[Array, "batch tokens"]
    mask: Bool[Array, "batch tokens"]
    segments: Int[Array, "batch tokens"] | None
    places: Int[Array, "batch tokens"] | None


def check_texts(x: Any, reads: Collection[str] = ()) -> Texts:
    """Checks an input and returns its arrays, each [batch, tokens].

    Every tokenizer returns `types`, so a network without a table for them ignores them. `segments`, which are the same
    under another name, and `places` are passed on purpose, so a network that has no use for them refuses them. Ids and
    segments of tokens that are below 0, or beyond the network's table, turn their text into NaN.

    Args:
      x: a dict of `ids` and `mask`, which may have `types` or `segments`, and `places`.
      reads: those of `types`, `segments` and `places` that the network uses.

    Raises:
      ValueError: if the input is not such a dict, its arrays have other dtypes or shapes, or the network refuses an
        entry.
    """
    if not isinstance(x, Mapping) or not {"ids", "mask"} <= set(x) <= set(_KNOWN):
        raise ValueError(f"the input is {described(x)}: give a dict of 'ids', 'mask' and, for pairs, 'types'")
    refuse(x, reads)
    if {"types", "segments"} <= set(x):
        raise ValueError("the input has 'types' and 'segments', two names of the same: give one of them")
    arrays = {name: jnp.asarray(x[name]) for name in _KNOWN if name in x}
    names, right = ", ".join(arrays), ", ".join("bool" if name == "mask" else "int32" for name in arrays)
    if any(
        array.dtype != bool if name == "mask" else not jnp.issubdtype(array.dtype, jnp.integer)
        for name, array in arrays.items()
    ):
        raise ValueError(f"{names} are {', '.join(str(array.dtype) for array in arrays.values())}: give {right}")
    ids, mask = arrays["ids"], arrays["mask"]
    if ids.ndim != 2 or not ids.shape[1] or any(array.shape != ids.shape for array in arrays.values()):
        shapes = ", ".join(str(array.shape) for array in arrays.values())
        raise ValueError(f"{names} have shapes {shapes}: give [batch, tokens]")
    segments, places = arrays.get("segments", arrays.get("types") if "types" in reads else None), arrays.get("places")
    return Texts(
        jnp.where(mask, beyond(ids), ids),
        mask,
        None if segments is None else jnp.where(mask, beyond(segments), segments),
        None if places is None else jnp.where(mask, places, 0),
    )


def refuse(x: Mapping[str, Any], reads: Collection[str] = ()) -> None:
    """Refuses `segments` and `places` of an input if the network does not use them.

    Raises:
      ValueError: naming them.
    """
    for name, what in (("segments", "embeddings of segments"), ("places", "positions that could be given")):
        if name in x and name not in reads:
            raise ValueError(f"the input has {name!r}, but this network has no {what}: leave {name!r} out")


def counted(mask: Bool[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """The number of tokens before each token: 0, 1, ... over a text, and 0 where there is no token.

    So padding before a text does not shift it. transformers' `generate` counts the same way; without `position_ids`
    transformers' networks count padding too.
    """
    return jnp.where(mask, jnp.cumsum(mask, 1, dtype=jnp.int32) - 1, 0)


def last_token(x: Array, mask: Bool[Array, "batch tokens"]) -> Array:
    """The row of each text's last token, [batch, width], from [batch, tokens, width]; the first if there is none."""
    final = (mask * jnp.arange(mask.shape[1])[None]).max(1)
    return jnp.take_along_axis(x, final[:, None, None], 1)[:, 0]


def beyond(ids: Int[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """Replaces ids below 0 by one beyond every vocabulary, which looks up NaN; -1 would look up the last word."""
    return jnp.where(ids < 0, jnp.iinfo(ids.dtype).max, ids)
