"""Adapters of a layer in PEFT's files that is several layers in jtl, such as GPT-2's `c_attn`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_OUTPUTS = ("b", "m", "l")
"""Leaves with one number or one column for each output of a layer."""


def cut(leaf: str, value: np.ndarray, widths: Sequence[int], before: bool, name: str) -> list[np.ndarray]:
    """Splits one leaf of a fused layer's adapter: values for outputs are split, those for the input are copied.

    Args:
      leaf: name of the leaf, such as `a`.
      value: its value, in jtl's layout.
      widths: widths of the parts' outputs.
      before: whether IA3 scales the input.
      name: name of the layer, for errors.

    Raises:
      ValueError: if the number of outputs differs.
    """
    if leaf not in _OUTPUTS and (leaf != "scale" or before):
        return [value] * len(widths)
    if value.shape[-1] != sum(widths):
        raise ValueError(f"{name}: has {value.shape[-1]} outputs; the network has {list(widths)}")
    return np.split(value, np.cumsum(widths)[:-1], -1)


def fuse(
    parts: Sequence[Mapping[str, np.ndarray]], kernels: Sequence[Any], before: bool, name: str
) -> dict[str, np.ndarray]:
    """Fuses the adapters of a layer's parts into one that computes the same; a part without an adapter stays as it is.

    If the parts' A of LoRA differ, the result is `[A1 A2]` and `[[B1 0] [0 B2]]`, whose rank is the sum of theirs.

    Args:
      parts: the leaves of each part, empty if it has no adapter.
      kernels: kernels of the parts.
      before: whether IA3 scales the input.
      name: name of the layer, for errors.

    Raises:
      ValueError: if parts differ in a leaf of which PEFT has one value for all.
    """
    if len(parts) == 1:
        return dict(parts[0])
    present = [part for part in parts if part]
    found: dict[str, np.ndarray] = {}
    for leaf in present[0]:
        if leaf == "b" or (leaf == "a" and not _same([part["a"] for part in present])):
            continue
        outputs = leaf in ("m", "l") or (leaf == "scale" and not before)
        if outputs:
            blank = [_unchanged(leaf, np.asarray(kernel)) for kernel in kernels]
            found[leaf] = np.concatenate([part.get(leaf, rest) for part, rest in zip(parts, blank, strict=True)])
        elif not _same([part[leaf] for part in present]) or (leaf in ("scale", "q") and len(present) < len(parts)):
            raise ValueError(
                f"{name} is {len(parts)} layers in jtl, whose adapters have values {leaf!r} that differ, or are not at"
                " all of them; PEFT has one for all: save this adapter with jtl.Checkpoints"
            )
        else:
            found[leaf] = present[0][leaf]
    if "b" not in present[0]:
        return found
    widths = [np.shape(kernel)[-1] for kernel in kernels]
    if "a" in found:
        rank = found["a"].shape[-1]
        blank = [np.zeros((rank, width), found["a"].dtype) for width in widths]
        found["b"] = np.concatenate([part.get("b", rest) for part, rest in zip(parts, blank, strict=True)], 1)
        return found
    found["a"] = np.concatenate([part["a"] for part in present], -1)
    ends = np.cumsum(widths)
    columns = [(end - width, sum(widths) - end) for end, width in zip(ends, widths, strict=True)]
    found["b"] = np.concatenate(
        [np.pad(part["b"], ((0, 0), place)) for part, place in zip(parts, columns, strict=True) if part]
    )
    return found


def _same(values: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(values[0], value) for value in values[1:])


def _unchanged(leaf: str, kernel: np.ndarray) -> np.ndarray:
    """The value of a leaf that leaves the layer unchanged."""
    if leaf == "m":
        return np.linalg.norm(kernel, axis=0)
    return (np.zeros if leaf == "l" else np.ones)(kernel.shape[-1], kernel.dtype)
