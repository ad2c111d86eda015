"""CLIP's and SigLIP's towers: published sizes, causality, and bad input. Their numbers are compared with transformers'
where files are loaded."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl.backbones.clip.network import quick_gelu

BASE = backbones.Size(768, 12, 12, 3072)
SMALL = backbones.Size(8, 1, 2, 16)


def ids(shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def count(net, key, tokens):
    x = {
        "image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
        "text": {"ids": ids((1, tokens)), "mask": jax.ShapeDtypeStruct((1, tokens), jnp.bool_)},
    }
    return sum(a.size for a in jax.tree.leaves(jax.eval_shape(net.init, key, x).params))


def test_sizes_are_the_published_ones(key):
    """Parameters of openai/clip-vit-base-patch32 and google/siglip-base-patch16-224."""
    clip = backbones.two_towers(backbones.clip_image(BASE), backbones.clip_text(backbones.Size(512, 12, 8, 2048)))
    assert count(clip, key, 77) == 151_277_313
    siglip = backbones.two_towers(backbones.siglip_image(BASE), backbones.siglip_text(BASE), bias=True)
    assert count(siglip, key, 64) == 203_155_970


def text(numbers):
    numbers = np.array(numbers, np.int32)
    return {"ids": numbers, "mask": np.ones_like(numbers, bool)}


def test_the_end_of_a_text_tells_of_what_is_before_it_alone(key):
    net = backbones.clip_text(SMALL, vocabulary=20, positions=6, end=7, projection=3)
    x = text([[1, 2, 7, 5, 7], [1, 2, 7, 9, 3], [1, 4, 7, 5, 7]])
    variables = net.init(key, x)
    one, two, other = net.apply(variables, x, train=False)[0]["pooled"]
    np.testing.assert_array_equal(one, two)
    assert float(jnp.abs(one - other).max()) > 1e-3


def test_quick_gelu_is_no_gelu():
    """The largest distance on a grid, as tabulated: 2e-2."""
    x = jnp.linspace(-6, 6, 1001)
    assert float(jnp.abs(quick_gelu(x) - jax.nn.gelu(x, approximate=False)).max()) == pytest.approx(0.0203, abs=2e-4)


def test_embeddings_are_directions(key):
    net = backbones.two_towers(
        backbones.clip_image(SMALL, patch=2, image=4, projection=3),
        backbones.clip_text(SMALL, vocabulary=20, positions=6, end=7, projection=3),
    )
    x = {"image": np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32), "text": text([[1, 7], [2, 7]])}
    variables = net.init(key, x)
    found, _ = net.apply(variables, x, train=False)
    for name in ("image", "text"):
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1, rtol=1e-6)
    # The temperature of the paper: 0.07.
    np.testing.assert_allclose(found["logits"], found["image"] @ found["text"].T / 0.07, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (text([[1] * 7]), r"\(1, 7\).*1 to 6 tokens"),
        (text([1, 2]), r"\(2,\).*\[batch, tokens\]"),
        ({"ids": np.ones((1, 2), np.float32), "mask": np.ones((1, 2), bool)}, "float32.*whole numbers"),
    ],
)
def test_bad_input_is_named(key, x, words):
    with pytest.raises(ValueError, match=words):
        backbones.clip_text(SMALL, vocabulary=20, positions=6).init(key, x)


def test_bad_measures_are_named():
    with pytest.raises(ValueError, match=r"width=8.*heads=3"):
        backbones.siglip_text(backbones.Size(8, 1, 3, 16))
    with pytest.raises(ValueError, match=r"image=4.*patch=16"):
        backbones.siglip_image(SMALL, image=4)
    with pytest.raises(ValueError, match=r"pool='token': give one of \['attention', 'mean'\]"):
        unwrap(backbones.siglip_image)(SMALL, pool="token")  # there is none
    for tower in (backbones.siglip_image, backbones.clip_image):
        with pytest.raises(ValueError, match=r"activation='relu': give one of .*'gelu'"):
            unwrap(tower)(SMALL, activation="relu")
