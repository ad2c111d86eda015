"""Heads against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import heads, losses
from jtl.model import Variables
from jtl.reads import Masked

DIM, CLASSES = 6, 4


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)


def randomised(variables: Variables) -> Variables:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), variables)


def test_linear_is_affine(key, x):
    head = heads.linear(CLASSES)
    v = randomised(head.init(key, x))
    z, stats = head.apply(v, x, train=False, key=None)
    w = jax.tree.map(np.asarray, v.params)["out"]
    assert stats == {}
    np.testing.assert_allclose(z, x @ w["kernel"] + w["bias"], rtol=1e-5, atol=1e-6)


def test_identity_gives_the_features(key, x):
    head = heads.identity()
    made = head.init(key, x)
    assert made == ({}, {})
    out, stats = head.apply(made, x, train=True, key=key)
    assert out is x
    assert stats == {}


def test_averaged_is_the_mean_of_two_affine_maps(key, x):
    head = heads.averaged(CLASSES)
    v = randomised(head.init(key, x))
    p = jax.tree.map(np.asarray, v.params)
    z = [
        x[:, half] @ p[name]["kernel"] + p[name]["bias"]
        for name, half in (("out", np.s_[:3]), ("distilled", np.s_[3:]))
    ]
    for train in (False, True):
        out, _ = head.apply(v, x, train=train, key=key)
        np.testing.assert_allclose(out, (z[0] + z[1]) / 2, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="features of width 5: give two tokens side by side"):
        head.init(key, x[:, :5])


def test_bridged_subtracts_its_bridge_and_is_one_affine_map(key, x):
    head, plain = heads.bridged(CLASSES), heads.linear(CLASSES)
    drawn = head.init(key, x).params
    assert not np.array_equal(drawn["out"]["kernel"], drawn["bridge"]["kernel"])
    v = randomised(head.init(key, x))
    p = jax.tree.map(np.asarray, v.params)
    out, bridge = (x @ p[name]["kernel"] + p[name]["bias"] for name in ("out", "bridge"))
    one = {"out": jax.tree.map(np.subtract, p["out"], p["bridge"])}
    for train in (False, True):
        z, _ = head.apply(v, x, train=train, key=key)
        np.testing.assert_allclose(z, out - bridge, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(z, plain.apply(Variables(one, {}), x, train=train)[0], rtol=1e-5, atol=2e-6)


def test_mlp_is_its_formula(key, x):
    head = heads.mlp(CLASSES, (8, 7))
    v = randomised(head.init(key, x))
    p = jax.tree.map(np.asarray, v.params)
    h = x
    for name in ("hidden1", "hidden2"):
        h = np.maximum(h @ p[name]["kernel"] + p[name]["bias"], 0)
    z, _ = head.apply(v, x, train=False, key=None)
    np.testing.assert_allclose(z, h @ p["out"]["kernel"] + p["out"]["bias"], rtol=1e-5, atol=1e-5)


def test_cosine_sees_directions_only(key, x):
    head = heads.cosine(CLASSES, temperature=0.5)
    v = randomised(head.init(key, x))
    w = np.asarray(v.params["out"]["kernel"])
    wanted = (x @ w) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=0)[None] / 0.5
    z, _ = head.apply(v, x, train=False, key=None)
    np.testing.assert_allclose(z, wanted, rtol=1e-5, atol=1e-6)
    longer, _ = head.apply(v, 30 * x, train=False, key=None)
    np.testing.assert_allclose(longer, z, rtol=1e-5, atol=1e-6)


def test_cosine_of_a_zero_vector_has_a_finite_gradient(key, x):
    head = heads.cosine(CLASSES)
    v = head.init(key, x)
    y = np.zeros(5, np.int32)

    def loss(v, x):
        return losses.cross_entropy(head.apply(v, x, train=False, key=None)[0], y).sum()

    for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(v, jnp.zeros_like(x))):
        assert np.isfinite(leaf).all()


def test_zero_init_starts_at_zero(key, x):
    for head in (heads.linear(CLASSES, zero_init=True), heads.mlp(CLASSES, (8,), zero_init=True)):
        z, _ = head.apply(head.init(key, x), x, train=False, key=None)
        np.testing.assert_array_equal(z, np.zeros((5, CLASSES)))


@pytest.mark.parametrize(
    "head", [heads.linear(CLASSES, dropout=0.4), heads.cosine(CLASSES, dropout=0.4)], ids=["linear", "cosine"]
)
def test_dropout_is_in_training_only_and_a_function_of_the_key(key, x, head):
    v = head.init(key, x)

    def out(train, k):
        return np.asarray(head.apply(v, x, train=train, key=k)[0])

    keys = jax.random.split(key, 2)
    np.testing.assert_array_equal(out(True, keys[0]), out(True, keys[0]))
    assert np.abs(out(True, keys[0]) - out(True, keys[1])).max() > 1e-3
    np.testing.assert_array_equal(out(False, keys[0]), out(False, None))


def test_linear_dropout_keeps_the_mean(key):
    head = heads.linear(2, dropout=0.4)
    x = np.ones((20_000, 1), np.float32)
    v = Variables({"out": {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(2)}}, {})
    z, _ = head.apply(v, x, train=True, key=key)
    kept = np.asarray(z[:, 0])
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.6], rtol=1e-6)
    # The mean of 20,000 draws has a deviation of √(0.4 / 0.6 / 20000) = 0.0058: five of them.
    np.testing.assert_allclose(kept.mean(), 1, atol=0.029)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: heads.linear(0), "classes=0"),
        (lambda: heads.averaged(0), "classes=0"),
        (lambda: heads.bridged(0), "classes=0"),
        (lambda: heads.mlp(3, (4, 0)), r"widths\[1\]=0"),
        (lambda: heads.linear(3, dropout=1.0), "dropout=1.0"),
        (lambda: heads.cosine(3, temperature=0.0), "temperature=0.0"),
    ],
)
def test_bad_numbers_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_per_position_is_one_affine_map_everywhere_and_keeps_a_mask(key):
    head, tokens = heads.per_position(CLASSES), np.random.default_rng(0).normal(size=(2, 5, DIM)).astype(np.float32)
    v = randomised(head.init(key, tokens))
    w = jax.tree.map(np.asarray, v.params)["out"]
    wanted = np.einsum("bnd,dc->bnc", tokens, w["kernel"]) + w["bias"]
    np.testing.assert_allclose(head.apply(v, tokens, train=False)[0], wanted, rtol=1e-5, atol=1e-6)
    mask = np.arange(5)[None] < np.array([[5], [2]])
    found, _ = head.apply(v, Masked(tokens, mask), train=False)
    np.testing.assert_allclose(found.values, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.mask, mask)
    maps = tokens.reshape(2, 1, 5, DIM)
    np.testing.assert_allclose(head.apply(v, maps, train=False)[0][:, 0], wanted, rtol=1e-5, atol=1e-6)


def test_per_position_reads_one_feature(key):
    with pytest.raises(ValueError, match=r"the features \['a', 'b'\] at once: this head reads one"):
        heads.per_position(2).init(key, {"a": np.zeros((1, 2, 3)), "b": np.zeros((1, 2, 3))})
    with pytest.raises(ValueError, match=r"dropout=1\.0"):
        heads.per_position(2, dropout=1.0)
