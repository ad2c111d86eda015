"""Fingerprints: the same wherever an array lies, another for every changed bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.train import mesh
from jtl.train.checkpoint.fingerprint import fingerprints, together

MASK = 0xFFFFFFFF


def of(array):
    return fingerprints({"a": jnp.asarray(array)})["a"]


def by_hand(words):
    """The formula of the docstring, in Python's integers."""

    def mix(x):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = ((x ^ (x >> shift)) * factor) & MASK
        return x ^ (x >> 16)

    seeds = (0x9E3779B9, 0x7F4A7C15, 0xF39CC060, 0x5CEDC834)
    sums = [sum(mix(word ^ mix((i + seed) & MASK)) for i, word in enumerate(words)) & MASK for seed in seeds]
    return "".join(f"{part:08x}" for part in sums)


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "uint8", "int16", "bool"]
)
def test_the_formula(dtype):
    values = np.random.default_rng(0).normal(0, 40, (3, 4, 5)).round()
    array = np.asarray(jnp.asarray(np.abs(values) if dtype == "uint8" else values, dtype))
    bits = array.view(f"uint{8 * array.dtype.itemsize}").ravel()
    assert of(array) == by_hand([int(word) for word in bits])


def test_of_no_numbers_of_one_of_keys_and_of_complex_ones():
    assert of(np.zeros((0, 3), np.float32)) == by_hand([])
    assert of(np.float32(1)) == by_hand([0x3F800000])
    assert of(np.complex64(1 + 2j)) == by_hand([0x3F800000, 0x40000000])
    assert of(jax.random.key(7)) == by_hand([0, 7])


def test_every_flipped_bit_and_every_exchange_is_seen():
    array = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    seen = {of(array), of(array.T.copy()), of(array[::-1].copy()), of(-array), of(array + 0.0)}
    assert len(seen) == 4, "adding 0.0 changes nothing"
    bits = array.view(np.uint32)
    for place in range(0, 32, 5):
        for bit in range(0, 32, 3):
            changed = bits.copy()
            changed.flat[place] ^= np.uint32(1 << bit)
            seen.add(of(changed.view(np.float32)))
    assert len(seen) == 4 + 7 * 11


def test_it_does_not_depend_on_where_an_array_lies():
    array = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    devices = mesh(fsdp=8)
    specs = [jax.P(), jax.P("fsdp"), jax.P(None, "fsdp")]
    placed = [jax.device_put(array, jax.NamedSharding(devices, spec)) for spec in specs]
    assert {of(one) for one in placed} == {of(array)}


def test_names_shapes_and_types_count_too():
    prints, about = {"a": "0", "b": "1"}, {"a": [[2], "float32"], "b": [[], "float32"]}
    same = together(dict(reversed(prints.items())), about)
    assert together(prints, about) == same
    assert len(same) == 32
    others = [
        together(prints, about | {"a": [[1, 2], "float32"]}),
        together(prints, about | {"a": [[2], "int32"]}),
        together({"c": "0", "b": "1"}, about | {"c": about["a"]}),
        together(prints | {"a": "2"}, about),
    ]
    assert len({same, *others}) == 5
