"""Rotary embeddings by their laws, and the wavelengths against transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.rotary import Dynamic, Linear, Llama3, Rotary, Yarn, frequencies, rotate, turns

DIM = 8


def rotated(x, places, rotary=None):
    cos, sin = turns(rotary or Rotary(50.0), jnp.asarray(places)[None], DIM, x.dtype)
    return rotate(x, cos, sin)


def test_a_pair_of_channels_turns_as_a_complex_number(key):
    with jax.enable_x64(True):
        x = jax.random.normal(key, (1, 5, 3, DIM), jnp.float64)
        places = np.array([0, 1, 7, 30, 4])
        found = np.asarray(rotated(x, places))
    numbers = np.asarray(x)[..., : DIM // 2] + 1j * np.asarray(x)[..., DIM // 2 :]
    rates = 50.0 ** (-np.arange(0, DIM, 2) / DIM)
    wanted = numbers * np.exp(1j * places[None, :, None, None] * rates)
    np.testing.assert_allclose(found[..., : DIM // 2] + 1j * found[..., DIM // 2 :], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scaling", [None, Linear(2.0), Llama3(4.0, 1.0, 4.0, 16), Yarn(4.0, 16, 1.2)])
def test_products_depend_on_the_difference_of_places(scaling, key):
    rotary = Rotary(50.0, scaling)
    with jax.enable_x64(True):
        query, key_ = jax.random.normal(key, (2, 1, 4, 1, DIM), jnp.float64)
        places = np.array([3, 0, 9, 5])

        def products(shift):
            turned = rotated(query, places + shift, rotary), rotated(key_, places[::-1] + shift, rotary)
            return (turned[0] * turned[1]).sum(-1)

        np.testing.assert_allclose(products(0), products(100), rtol=0, atol=1e-12)


def test_half_precision_turns_in_float32(key):
    """In bfloat16 places above 256 are no longer told apart."""
    x = jax.random.normal(key, (1, 2, 1, DIM), jnp.bfloat16)
    found = rotated(x, np.array([1000, 1001]))
    exact = rotated(x.astype(jnp.float32), np.array([1000, 1001]))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, rtol=2**-8, atol=1e-6)


SCALINGS = {
    "linear": (Linear(3.0), {"factor": 3.0}),
    "llama3": (
        Llama3(8.0, 1.0, 4.0, 8192),
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "yarn": (Yarn(4.0, 32768, 1.0), {"factor": 4.0, "original_max_position_embeddings": 32768}),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_wavelengths_of_published_networks_are_transformers(kind):
    """Of 128 channels and θ of 500,000: as Llama 3.1 has them, and Qwen2.5 for long texts; all of its float32."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, words = SCALINGS[kind]
    rope = {"rope_type": kind, "rope_theta": 500000.0, **words}
    config = transformers.LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=rope)
    wanted, _ = ROPE_INIT_FUNCTIONS[kind](config, None)
    np.testing.assert_allclose(frequencies(Rotary(500000.0, scaling), 128), wanted.numpy(), rtol=1e-6)


def test_the_base_grows_for_the_text_that_is_long():
    """Up to `longest` nothing changes; at twice of it with factor 2, θ is 3^(d / (d − 2)) times as large."""
    rotary = Rotary(50.0, Dynamic(2.0, 8))
    places = jnp.asarray(np.stack([np.arange(16), np.arange(16) % 8]))
    cos, _ = turns(rotary, places, DIM, np.dtype("float32"))
    assert cos.shape == (2, 16, 1, DIM // 2)
    powers = np.arange(0, DIM, 2) / DIM
    for row, theta in enumerate((50.0 * 3.0 ** (DIM / (DIM - 2)), 50.0)):
        wanted = np.cos(np.asarray(places)[row][:, None] * theta**-powers)
        np.testing.assert_allclose(cos[row, :, 0], wanted, rtol=0, atol=2e-6)
