"""Adapters of a layer in PEFT's files that is several layers in jtl, such as GPT-2's `c_attn`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.peft.lycoris_files import KRONECKER

_OUTPUTS = ("b", "b1", "b2", "m", "l", "v")
"""Leaves with one number or one column for each output of a layer."""

_UNCUT = {**dict.fromkeys(KRONECKER, "LoKr"), "c": "FourierFT"}
"""Leaves whose update is of a whole layer, and the adapter's name."""

_PRODUCTS = (("a", "b"), ("a1", "b1"), ("a2", "b2"))
"""Pairs of leaves that are multiplied: LoRA's, and both of LoHa's."""


def cut(leaf: str, value: np.ndarray, widths: Sequence[int], before: bool, name: str) -> list[np.ndarray]:
    """Splits one leaf of a fused layer's adapter: values for outputs are split, those for the input are copied.

    Args:
      leaf: name of the leaf, such as `a`.
      value: its value, in jtl's layout.
      widths: widths of the parts' outputs.
      before: whether IA3 scales the input.
      name: name of the layer, for errors.

    Raises:
      ValueError: if the number of outputs differs, and for LoKr and FourierFT, whose updates are of the whole layer.
    """
    if leaf in _UNCUT:
        raise ValueError(
            f"{name}: is {_UNCUT[leaf]} of a layer that is {len(widths)} in jtl, which cannot be cut into its parts"
        )
    if leaf not in _OUTPUTS and (leaf != "scale" or before):
        return [value] * len(widths)
    if value.shape[-1] != sum(widths):
        raise ValueError(f"{name}: has {value.shape[-1]} outputs; the network has {list(widths)}")
    return np.split(value, np.cumsum(widths)[:-1], -1)


def fuse(
    parts: Sequence[Mapping[str, np.ndarray]], kernels: Sequence[Any], before: bool, name: str
) -> dict[str, np.ndarray]:
    """Fuses the adapters of a layer's parts into one that computes the same; a part without an adapter stays as it is.

    If the parts' A of LoRA differ, the result is `[A1 A2]` and `[[B1 0] [0 B2]]`, whose rank is the sum of theirs. Both
    products of LoHa are widened so, because they have one rank.

    Args:
      parts: the leaves of each part, empty if it has no adapter.
      kernels: kernels of the parts.
      before: whether IA3 scales the input.
      name: name of the layer, for errors.

    Raises:
      ValueError: if parts differ in a leaf of which PEFT has one value for all, and for LoKr and FourierFT of several
        parts.
    """
    if len(parts) == 1:
        return dict(parts[0])
    present = [part for part in parts if part]
    found: dict[str, np.ndarray] = {}
    pairs = [pair for pair in _PRODUCTS if pair[0] in present[0]]
    apart = not all(_same([part[a] for part in present]) for a, _ in pairs)
    for leaf in present[0]:
        if any(leaf == b or (apart and leaf == a) for a, b in pairs):
            continue
        outputs = leaf in ("m", "l", "v") or (leaf == "scale" and not before)
        if outputs:
            rows = present[0][leaf].shape[:-1]
            blank = [_unchanged(leaf, np.asarray(kernel), rows) for kernel in kernels]
            found[leaf] = np.concatenate([part.get(leaf, rest) for part, rest in zip(parts, blank, strict=True)], -1)
        elif leaf in _UNCUT:
            raise ValueError(
                f"{name} is {len(parts)} layers in jtl, and {_UNCUT[leaf]} of PEFT is one update for all of them: save"
                " this adapter with jtl.Checkpoints"
            )
        elif not _same([part[leaf] for part in present]) or (leaf in ("scale", "q", "h") and len(present) < len(parts)):
            raise ValueError(
                f"{name} is {len(parts)} layers in jtl, whose adapters have values {leaf!r} that differ, or are not at"
                " all of them; PEFT has one for all: save this adapter with jtl.Checkpoints"
            )
        else:
            found[leaf] = present[0][leaf]
    for a, b in pairs:
        found |= _beside(a, b, parts, [np.shape(kernel)[-1] for kernel in kernels], apart)
    return found


def _beside(
    a: str, b: str, parts: Sequence[Mapping[str, np.ndarray]], widths: Sequence[int], apart: bool
) -> dict[str, np.ndarray]:
    """One product of the layer from those of its parts, whose outputs stand beside one another."""
    present = [part for part in parts if part]
    if not apart:
        rank = present[0][a].shape[-1]
        blank = [np.zeros((rank, width), present[0][a].dtype) for width in widths]
        return {b: np.concatenate([part.get(b, rest) for part, rest in zip(parts, blank, strict=True)], 1)}
    ends = np.cumsum(widths)
    columns = [(end - width, sum(widths) - end) for end, width in zip(ends, widths, strict=True)]
    outputs = [np.pad(part[b], ((0, 0), place)) for part, place in zip(parts, columns, strict=True) if part]
    return {a: np.concatenate([part[a] for part in present], -1), b: np.concatenate(outputs)}


def _same(values: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(values[0], value) for value in values[1:])


def _unchanged(leaf: str, kernel: np.ndarray, rows: tuple[int, ...]) -> np.ndarray:
    """The value of a leaf that leaves the layer unchanged; `rows` are its axes before that of the outputs."""
    if leaf == "m":
        return np.linalg.norm(kernel, axis=0)
    return (np.zeros if leaf in ("l", "v") else np.ones)((*rows, kernel.shape[-1]), kernel.dtype)
