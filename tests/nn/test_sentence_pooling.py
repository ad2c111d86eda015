"""Embeddings of texts, against each text's tokens alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl.model import Model, Variables
from jtl.nn.sentence_pooling import POOLINGS, sentences

COUNTS = {"right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]}


def alone(way, tokens, numbers):
    """Of a text's own tokens and their numbers in it, by the definitions."""
    return {
        "cls": tokens[0],
        "max": tokens.max(0),
        "mean": tokens.mean(0),
        "mean_sqrt_len_tokens": tokens.sum(0) / np.sqrt(len(tokens)),
        "weightedmean": numbers @ tokens / numbers.sum(),
        "lasttoken": tokens[-1],
    }[way]


def pooled(way, last, x):
    fake = Model(lambda key, x: Variables({}, {}), lambda v, x, *, train, key=None: ({"last": last}, {}))
    return sentences(fake, pooling=[way]).apply(Variables({}, {}), x, train=False)[0]["pooled"]


@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize("side", COUNTS)
@pytest.mark.parametrize("way", POOLINGS)
def test_padding_and_prompts_count_for_nothing(way, side, prompt):
    last = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.array(COUNTS[side], bool)
    before = mask & (mask.cumsum(1) <= prompt)
    x = {"ids": mask.astype(np.int32), "mask": mask, **({"prompt": before} if prompt else {})}
    wanted = [
        alone(way, tokens[m & ~b].astype(np.float64), m.cumsum()[m & ~b])
        for tokens, m, b in zip(last, mask, before, strict=True)
    ]
    np.testing.assert_allclose(pooled(way, jnp.asarray(last), x), wanted, rtol=1e-6)


@pytest.mark.parametrize("way", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_long_texts_in_half_precision_are_rounded_once(way):
    """A sum of 3000 tokens is beyond float16."""
    last = jnp.full((1, 3000, 2), 30.0, jnp.float16)
    mask = np.ones((1, 3000), bool)
    found = pooled(way, last, {"ids": mask.astype(np.int32), "mask": mask})
    assert found.dtype == jnp.float16
    wanted = 30 * np.sqrt(3000) if way == "mean_sqrt_len_tokens" else 30
    np.testing.assert_array_equal(found, np.float16(wanted))
