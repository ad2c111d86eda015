"""Attention against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.backbones.transformer import attend

BATCH, TOKENS, HEADS, DIM = 2, 5, 3, 4


def drawn(dtype=np.float32):
    """Queries, keys, values, and a mask that lets each token see itself at least."""
    rng = np.random.default_rng(0)
    made = [rng.normal(size=(BATCH, TOKENS, HEADS, DIM)).astype(dtype) for _ in range(3)]
    mask = rng.random((BATCH, 1, TOKENS, TOKENS)) < 0.5
    return *made, mask | np.eye(TOKENS, dtype=bool)


def references(query, key, value, mask=None):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    q, k, v = (torch.tensor(a).transpose(1, 2) for a in (query, key, value))
    given = None if mask is None else torch.tensor(mask)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=given)
    return out.transpose(1, 2).numpy()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_is_torchs(dtype, masked):
    query, key, value, mask = drawn(dtype)
    given = (mask,) if masked else ()
    expected = references(query, key, value, *given)
    with jax.enable_x64(dtype == np.float64):
        found = attend(*map(jnp.asarray, (query, key, value)), *map(jnp.asarray, given))
        assert found.dtype == dtype
        # A few roundings of numbers near one.
        np.testing.assert_allclose(found, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


def test_dropped_weights(key):
    """A share `dropout` of the weights is zero, the others are 1 / (1 - dropout) times as large."""
    tokens, rate = 64, 0.25
    query, keys = jnp.zeros((BATCH, tokens, HEADS, tokens)), jnp.zeros((BATCH, tokens, HEADS, tokens))
    value = jnp.broadcast_to(jnp.eye(tokens)[None, :, None], query.shape)
    weights = np.asarray(attend(query, keys, value, None, rate, key))
    kept = weights > 0
    np.testing.assert_allclose(weights[kept], 1 / tokens / (1 - rate), rtol=1e-6)
    # Five deviations of a binomial draw.
    assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / weights.size) ** 0.5


def test_masked_tokens_are_not_seen_under_dropout(key):
    query, keys, value, mask = map(jnp.asarray, drawn())
    far = jnp.where(mask[:, 0, 0, :, None, None], value, 1e6)
    np.testing.assert_array_equal(
        attend(query, keys, value, mask[:, :, :1], 0.5, key), attend(query, keys, far, mask[:, :, :1], 0.5, key)
    )
