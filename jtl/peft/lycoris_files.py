"""LoHa's, LoKr's and AdaLoRA's factors in PEFT's files, whose kernels are [out, in] or [out, in, height, width]."""

from math import prod
from typing import Any

import numpy as np

KINDS = ("LOHA", "LOKR")
"""Their names in PEFT, which supports them for `nn.Linear` and `nn.Conv2d` only."""

FACTORS = {
    "hada_w1_a": "b1",  # PEFT counts the factors from the output
    "hada_w1_b": "a1",
    "hada_w2_a": "b2",
    "hada_w2_b": "a2",
    "hada_t1": "t1",
    "hada_t2": "t2",
    "lokr_w1": "w1",
    "lokr_w1_a": "w1_b",
    "lokr_w1_b": "w1_a",
    "lokr_w2": "w2",
    "lokr_w2_a": "w2_b",
    "lokr_w2_b": "w2_a",
    "lokr_t2": "t",
    "lora_A": "u",  # of AdaLoRA; LoRA's ends in `.weight`
    "lora_B": "v",
}
_INPUTS, _OUTPUTS = ("a1", "a2", "w2_a", "u"), ("b1", "b2", "w2_b")
"""Factors of the input, which hold the convolution's height and width if there is no core, and of the output."""

KRONECKER = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t")
"""LoKr's leaves. They belong to a whole layer, because part of its outputs is not a Kronecker product."""


def has_core(config: Any, kernel: Any) -> bool:
    """Whether this kernel's factors have a core (Tucker decomposition), according to PEFT's config."""
    return bool(config.get("use_effective_conv2d")) and kernel.ndim == 4 and tuple(kernel.shape[:2]) != (1, 1)


def read_factor(leaf: str, value: np.ndarray, kernel: Any, core: bool, name: str) -> np.ndarray:
    """Returns a factor in jtl's layout.

    Args:
      leaf: name of the leaf, such as `a1`.
      value: the tensor of the file.
      kernel: the layer's kernel, in jtl's layout.
      core: whether the factors have a core; PEFT then stores both with the rank first.
      name: name of the tensor, for errors.

    Raises:
      ValueError: if the tensor's number of axes or widths do not fit the layer.
    """
    sides = tuple(kernel.shape[:-2])
    if value.ndim == 4 and leaf in ("t", "t1", "t2", "w2"):
        return value.transpose(2, 3, 1, 0)
    if value.ndim != 2 or (leaf in _INPUTS and not core and value.shape[1] % prod(sides)):
        raise ValueError(f"{name}: is {value.shape}, which is no factor of a kernel {tuple(kernel.shape)}")
    if leaf in _INPUTS and sides and not core:
        return value.reshape(len(value), -1, *sides).transpose(2, 3, 1, 0)
    return value if leaf in _OUTPUTS and core else value.T


def written_factor(leaf: str, value: np.ndarray, core: bool) -> np.ndarray:
    """Returns a factor in PEFT's layout; the inverse of `read_factor`."""
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
        return value.reshape(len(value), -1) if leaf in _INPUTS else value
    return value if leaf in _OUTPUTS and core else value.T
