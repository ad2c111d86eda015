"""A frozen base in 8 or 4 bits, restored when it is used."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from jtl.model import Model, Variables
from jtl.networks import network
from jtl.params import flatten, unflatten
from jtl.peft.attach import matched
from jtl.typing import Key, Params

NF4 = (  # quantiles of a normal distribution, as listed by Dettmers et al., appendix E
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantise(
    net: Model, variables: Variables, where: Sequence[str], kind: Literal["int8", "nf4"], *, block: int = 64
) -> tuple[Model, Variables]:
    """Quantises the backbone's kernels to 8 or 4 bits, as in QLoRA, with one scale `s = max |w|` per block of numbers.

    In "int8" a weight is `s c / 127` with an integer c, no further from w than s / 254; in "nf4" it is s times one of
    16 quantiles of a normal distribution, no further than 0.152 s. Adapters, biases and heads stay as they are: attach
    adapters first and train those. Quantised kernels have no gradient, and asking for one raises. Each kernel is
    restored when the network is called and used in its original dtype; only memory and disk space are saved.

    Args:
      net: a network of `jtl.network`, or a backbone; with adapters, if any are wanted.
      variables: variables of `net`; they are not changed.
      where: regexes over paths of modules with a kernel, such as `block.*`.
      kind: "int8" or "nf4".
      block: how many consecutive numbers of the flattened kernel share a scale; 64 in the paper.

    Returns:
      The network, and variables in which `kernel/codes` and `kernel/scales` replace these kernels.

    Raises:
      ValueError: for a pattern that matches no kernel (already quantised ones do not count), for a block that does not
        divide a kernel, and for "nf4" with a kernel whose last axis is odd, because two numbers share a byte.

    Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023, arXiv 2305.14314; LLM.int8(), 2022, arXiv
    2208.07339.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.mlp((32, 32)), jnp.ones((2, 64))
      >>> net, variables = jtl.peft.attach(net, net.init(jax.random.key(0), x), jtl.peft.lora(2, (".*",)),
      ...     jax.random.key(1))
      >>> net, small = jtl.peft.quantise(net, variables, (".*",), "nf4")
      >>> [leaf.nbytes for leaf in small.params["stage1"]["dense"]["kernel"].values()]
      [1024, 128]
    """
    if kind not in ("int8", "nf4"):
        raise ValueError(f"kind={kind!r}: give 'int8' or 'nf4'")
    if block < 1:
        raise ValueError(f"block={block}: give at least 1")
    whole = "backbone" not in variables.params
    paths = matched(variables.params if whole else variables.params["backbone"], where)

    def shrink(params: Params) -> Params:
        flat: dict[str, Any] = {}
        for name, leaf in flatten(params).items():
            if name.removesuffix("/kernel") in paths and name.endswith("/kernel"):
                codes, scales = _codes(jnp.asarray(leaf), name, kind, block)
                flat |= {f"{name}/codes": codes, f"{name}/scales": scales}
            else:
                flat[name] = leaf
        return unflatten(flat)

    def small(backbone: Model) -> Model:
        def init(key: Key, x: Any) -> Variables:
            made = backbone.init(key, x)
            return made._replace(params=shrink(made.params))

        def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> Any:
            return backbone.apply(restored(variables), x, train=train, key=key)

        return backbone._replace(init=init, apply=apply, parts=None)

    if net.parts is None:
        return small(net), variables._replace(params=shrink(variables.params))
    parts = dict(net.parts) | {"backbone": small(net.parts["backbone"])}
    params = {**variables.params, "backbone": shrink(variables.params["backbone"])}
    return network(**parts)._replace(classes=net.classes), variables._replace(params=params)


def restored(variables: Variables) -> Variables:
    """The variables with every quantised kernel restored, for instance to merge an adapter into it.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.mlp((32,))
      >>> variables = net.init(jax.random.key(0), jnp.ones((2, 64)))
      >>> small = jtl.peft.quantise(net, variables, (".*",), "int8")[1]
      >>> jtl.peft.restored(small).params["stage1"]["dense"]["kernel"].shape
      (64, 32)
    """
    flat: dict[str, Any] = {}
    found = flatten(variables.params)
    for name, leaf in found.items():
        path, _, end = name.rpartition("/")
        if end == "codes" and path.endswith("kernel"):
            flat[path] = _numbers(leaf, found[f"{path}/scales"])
        elif not (end == "scales" and f"{path}/codes" in found):
            flat[name] = leaf
    return variables._replace(params=unflatten(flat))


def _codes(kernel: Array, name: str, kind: str, block: int) -> tuple[Array, Array]:
    if kernel.size % block:
        raise ValueError(f"{name} has {kernel.size} numbers, of which block={block} is no divisor")
    if kind == "nf4" and kernel.shape[-1] % 2:
        raise ValueError(f"{name} is {kernel.shape}; 'nf4' takes an even last axis: let `where` leave it out")
    blocks = kernel.reshape(-1, block).astype(jnp.float32)
    scales = jnp.abs(blocks).max(1)
    unit = blocks / jnp.where(scales > 0, scales, 1)[:, None]  # a block of zeros has a scale of 0
    if kind == "int8":
        return jnp.round(unit * 127).astype(jnp.int8).reshape(kernel.shape), scales.astype(kernel.dtype)
    levels = jnp.asarray(NF4, jnp.float32)
    nearest = jnp.searchsorted((levels[1:] + levels[:-1]) / 2, unit).astype(jnp.uint8).reshape(-1, 2)
    codes = nearest[:, 0] * 16 + nearest[:, 1]
    return codes.reshape(*kernel.shape[:-1], -1), scales.astype(kernel.dtype)


def _numbers(codes: Array, scales: Array) -> Array:
    if codes.dtype == jnp.int8:
        unit, shape = codes.astype(jnp.float32) / 127, codes.shape
    else:
        both = jnp.stack([codes >> 4, codes & 15], -1)
        unit, shape = jnp.asarray(NF4, jnp.float32)[both], (*codes.shape[:-1], 2 * codes.shape[-1])
    blocks = unit.reshape(scales.shape[0], -1) * scales.astype(jnp.float32)[:, None]
    return blocks.reshape(shape).astype(scales.dtype)
