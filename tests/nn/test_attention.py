"""Attention against torch's, and its derivatives in half precision against exact ones."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.attention import attend

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


def test_blocks_that_are_alike_are_lowered_once():
    x = jax.ShapeDtypeStruct((BATCH, TOKENS, HEADS, DIM), jnp.float32)

    def products(blocks):
        def run(x):
            return reduce(lambda x, _: attend(x, x, x), range(blocks), x).sum()

        return jax.jit(jax.grad(run)).lower(x).as_text().count("stablehlo.dot_general")

    assert products(2) == products(8) < 12  # six of each, were it lowered for each


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


def test_a_cpu_computes_what_others_do(monkeypatch, key):
    """Values and first and second derivatives of the products and of `jax.nn.dot_product_attention`."""
    query, keys, value, mask = map(jnp.asarray, drawn())
    bias = jax.random.normal(key, (1, HEADS, TOKENS, TOKENS))

    def both(query, keys, value, bias):
        def loss(*given):
            return jnp.sin(attend(*given[:3], mask, bias=given[3])).sum()

        def slope(*given):
            return sum(jnp.sin(g).sum() for g in jax.grad(loss, argnums=(0, 1, 2, 3))(*given))

        given = query, keys, value, bias
        return [
            attend(*given[:3], mask, bias=bias),
            *(jax.grad(f, argnums=(0, 1, 2, 3))(*given) for f in (loss, slope)),
        ]

    ours = jax.jit(both)(query, keys, value, bias)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.clear_caches()  # what was traced for a CPU would be taken again
    called = []
    theirs = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: called.append(k) or theirs(*a, **k))
    others = both(query, keys, value, bias)
    jax.clear_caches()  # nor is what was traced for a GPU for the tests that come
    assert called
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, others)


def test_a_token_that_may_see_nothing_is_finite():
    """It is of padding, and no one looks at it; but its gradient must not spoil the others'."""
    query, keys, value, _ = map(jnp.asarray, drawn())
    mask = jnp.zeros((BATCH, 1, TOKENS, TOKENS), bool)
    y, back = jax.vjp(lambda *given: attend(*given, mask), query, keys, value)
    np.testing.assert_allclose(y, jnp.broadcast_to(value.mean(1, keepdims=True), y.shape), rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(g).all() for g in back(y))


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


HALVES = {"bfloat16": 2**-8, "float16": 2**-11}


def gradients(given, mask, dropout=0.0, rng=None):
    """Of a loss, by queries, keys, values and a bias; in the dtype they have."""

    @partial(jax.jit, static_argnums=0)
    def of(wide, given):
        def loss(query, keys, value, bias):
            y = attend(query, keys, value, mask, dropout, rng, bias)
            return jnp.sin(y.astype(wide)).sum()

        return jax.grad(loss, argnums=(0, 1, 2, 3))(*given)

    return of(jnp.promote_types(given[0].dtype, jnp.float32), given)


def half_of(dtype, others=7):
    """Queries, keys, values, and a bias, rounded to a dtype; a mask, by which one token sees nothing."""
    rng = np.random.default_rng(1)
    shapes = [(BATCH, n, HEADS, DIM) for n in (TOKENS, others, others)] + [(1, HEADS, TOKENS, others)]
    mask = rng.random((BATCH, 1, TOKENS, others)) < 0.7
    mask[0, 0, 0] = False
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes], jnp.asarray(mask)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", HALVES)
def test_derivatives_in_half_precision_are_near_exact_ones(dtype, dropout, key):
    """To two roundings, those of the weights and of the logits' gradient, of those of float32, which are torch's."""
    given, mask = half_of(dtype)
    rng = key if dropout else None
    found = gradients(given, mask, dropout, rng)
    exact = gradients([a.astype(jnp.float32) for a in given], mask, dropout, rng)
    for ours, wanted in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        ours = np.asarray(ours, np.float32)
        assert np.linalg.norm(ours - wanted) < 2 * HALVES[dtype] * np.linalg.norm(wanted)


def test_second_derivatives_in_half_precision(key):
    """Forwards over backwards and backwards over backwards are the same, and near those of float32."""
    given, mask = half_of("bfloat16")

    def both(given):
        along = [jnp.ones_like(a) for a in given]

        def slope(*given):
            return gradients(given, mask)

        def total(*given):
            return sum(g.astype(jnp.float32).sum() for g in slope(*given))

        forwards = jax.jvp(slope, tuple(given), tuple(along))[1]
        return forwards, jax.grad(total, argnums=(0, 1, 2, 3))(*given)

    (forwards, backwards), (exact, _) = both(given), both([a.astype(jnp.float32) for a in given])
    for ours, wanted in zip([*forwards, *backwards], [*exact, *exact], strict=True):
        ours, wanted = np.asarray(ours, np.float32), np.asarray(wanted)
        assert np.linalg.norm(ours - wanted) < 0.03 * np.linalg.norm(wanted)  # some ten roundings one after another


def test_one_copy_of_the_weights_is_kept_and_it_is_of_half_precision():
    given, mask = half_of("bfloat16")
    _, back = jax.vjp(lambda *given: attend(*given[:3], mask, bias=given[3]), *given)
    kept = [a for a in jax.tree.leaves(back) if a.shape == (BATCH, HEADS, TOKENS, 7)]
    assert [a.dtype for a in kept] == [jnp.bfloat16]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_product_of_half_precision_takes_half_precision(platform, dropout, key):
    given, mask = half_of("bfloat16")

    def slope(*given):
        y, back = jax.vjp(lambda *g: attend(*g[:3], mask, dropout, key if dropout else None, g[3]), *given)
        return back(y)

    text = jax.jit(slope).trace(*given).lower(lowering_platforms=(platform,)).as_text()
    products = [line.rpartition(" : ")[2].partition(" -> ")[0] for line in text.splitlines() if "dot_general" in line]
    assert len(products) >= 6
    assert all(taken.count("bf16>") == 2 for taken in products), products
