"""Fingerprints of arrays, computed on their devices: equal for every sharding and number of devices."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.train.checkpoint.arrays import raw

_SEEDS = (0x9E3779B9, 0x7F4A7C15, 0xF39CC060, 0x5CEDC834)  # any four different numbers


def fingerprints(leaves: Mapping[str, jax.Array]) -> dict[str, str]:
    """128 bits of each array, as hexadecimal digits; no array leaves its devices.

    A fingerprint is `Σ_i mix(word_i ^ mix(i + seed)) mod 2³²` for four seeds, over the words of the array's bits. A sum
    of integers does not depend on its order, so it is the same on any number of devices. It tells a changed array from
    an unchanged one, but does not protect against forgery.
    """
    found = {name: _placed(raw(leaf)) for name, leaf in leaves.items()}
    return {name: "".join(f"{int(part):08x}" for part in parts) for name, parts in jax.device_get(found).items()}


def together(prints: Mapping[str, str], about: Mapping[str, Any]) -> str:
    """One fingerprint of several arrays, with their names, shapes and types."""
    text = json.dumps([[name, about[name], prints[name]] for name in sorted(prints)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _placed(leaf: jax.Array) -> jax.Array:
    """Computes the fingerprint in a sharding that every process can read."""
    sharding = leaf.sharding
    if isinstance(sharding, jax.NamedSharding):
        return jax.jit(_fingerprint, out_shardings=jax.NamedSharding(sharding.mesh, jax.P()))(leaf)
    return jax.jit(_fingerprint)(leaf)


def _fingerprint(leaf: jax.Array) -> jax.Array:
    words = _words(leaf)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    sums = [_mix(words ^ _mix(place + np.uint32(seed))).sum(dtype=jnp.uint32) for seed in _SEEDS]
    return jnp.stack(sums)


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as 32-bit words: two for a 64-bit number, one for a shorter one."""
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    if leaf.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    bits = jnp.finfo(leaf.dtype).bits if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.iinfo(leaf.dtype).bits
    return jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A one-to-one function of 32 bits in which each bit of x flips about half of the bits of the result."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))
