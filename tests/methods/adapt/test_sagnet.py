"""SagNet's terms against NumPy, row by row, and its gradients against differences of single terms; masks, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, top

from jtl import alignments, rng
from jtl.methods.adapt.sagnet import partners
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network
from jtl.params import flatten, unflatten
from jtl.train.parallel.sharding import mesh, put_batch

KEY = jax.random.key(0)
NAMES = ("a", "b")
NET = network(backbone=dense(8), head=top(3))
OBJECTIVE = alignments.sagnet(NET, top(3), NAMES, weight=lambda step: 0.5 * step)
ROWS = {n: batch(n=16, seed=i, masked=True) | {"weights": np.arange(16) % 3 + 0.5} for i, n in enumerate(NAMES)}
VARIABLES = OBJECTIVE.init(KEY, ROWS)
VARIABLES.params["backbone"]["layer0"]["bias"] += 1.0
KEPT = np.concatenate([part["mask"] for part in ROWS.values()])


def drawn():
    """The draws of `OBJECTIVE` with KEY: a share of the own style, the rows of other styles, and of other contents."""
    one, two = (rng.stream(KEY, f"style/{what}") for what in ("content", "style"))
    share = jax.random.uniform(jax.random.fold_in(one, 1), (32,))
    return (np.asarray(a) for a in (share, partners(one, jnp.asarray(KEPT)), partners(two, jnp.asarray(KEPT))))


DRAWN = tuple(drawn())


def by_hand(params, fixed):
    """The terms, one row after another; the content of another row is that under the parameters `fixed`."""
    share, of_style, of_content = DRAWN
    x, y, w = (np.concatenate([part[field] for part in ROWS.values()]) for field in ("x", "y", "weights"))

    def features(p):
        return np.maximum(x @ p["backbone/layer0/kernel"] + p["backbone/layer0/bias"], 0)

    def log_softmax(f, of):
        z = f @ params[f"{of}/out/kernel"] + params[f"{of}/out/bias"]
        return z - np.log(np.exp(z).sum())

    def content(f):
        return (f - f.mean()) / np.sqrt(f.var(ddof=1) + 1e-5)

    f, still, sums = features(params), features(fixed), np.zeros(3)
    for i in np.flatnonzero(KEPT):
        other, a = f[of_style[i]], share[i]
        scale = np.sqrt(a * f[i].var(ddof=1) + (1 - a) * other.var(ddof=1) + 1e-5)
        mixed = content(f[i]) * scale + a * f[i].mean() + (1 - a) * other.mean()
        styled = content(still[of_content[i]]) * np.sqrt(f[i].var(ddof=1) + 1e-5) + f[i].mean()
        told = log_softmax(styled, "style")
        sums += w[i] * np.array([-log_softmax(mixed, "head")[y[i]], -told[y[i]], -2 * told.mean()])
    return dict(zip(("style_content", "style", "style_adversary"), sums / w[KEPT].sum(), strict=True))


def loss(params, rows):
    terms, aux = OBJECTIVE(params, {}, rows, KEY, 4)
    return total(terms), ({n: m.value for n, m in as_terms(terms).items()}, aux.metrics)


run = jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_terms_are_those_of_each_row_and_each_part_learns_from_its_own():
    (_, (terms, metrics)), slopes = run(VARIABLES.params, ROWS)
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(VARIABLES.params).items()}
    wanted = by_hand(flat, flat)
    for name, value in wanted.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    assert len({path.split("/")[0] for path in flat}) == 3
    for path, leaf in flat.items():
        learned = {"backbone": ("style_content", "style_adversary"), "head": ("style_content",), "style": ("style",)}
        at = tuple(n // 2 for n in leaf.shape)
        up, down = ({**flat, path: leaf + e * (np.arange(leaf.size) == np.ravel_multi_index(at, leaf.shape))
                     .reshape(leaf.shape)} for e in (1e-6, -1e-6))  # fmt: skip
        found = [sum(by_hand(p, flat)[name] for name in learned[path.split("/")[0]]) for p in (up, down)]
        slope = (found[0] - found[1]) / 2e-6
        assert abs(slope) > 1e-4
        np.testing.assert_allclose(flatten(slopes)[path][at], slope, rtol=1e-3, atol=1e-5, err_msg=path)
    z = NET.apply(VARIABLES, ROWS["b"]["x"], train=False)[0].output  # of features that are not mixed
    right = np.average(z.argmax(1) == ROWS["b"]["y"], weights=ROWS["b"]["mask"] * ROWS["b"]["weights"])
    np.testing.assert_allclose(metrics["b/accuracy"].value, right, rtol=1e-5)


def test_rows_are_mixed_with_rows_that_count():
    many = jax.jit(jax.vmap(lambda key: partners(key, jnp.asarray(KEPT))))(jax.random.split(KEY, 400))
    np.testing.assert_array_equal(np.sort(many, 1), np.tile(np.arange(32), (400, 1)))
    np.testing.assert_array_equal(many[:, ~KEPT], np.tile(np.flatnonzero(~KEPT), (400, 1)))
    n = KEPT.sum()
    counts = np.bincount(many[:, np.flatnonzero(KEPT)[2]], minlength=32)[KEPT]
    assert ((counts - 400 / n) ** 2 / (400 / n)).sum() < n - 1 + 4 * np.sqrt(2 * (n - 1))  # χ², four deviations
    bad = {
        n: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for n, part in ROWS.items()
    }
    found, clean = run(VARIABLES.params, bad), run(VARIABLES.params, ROWS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, clean)
    none = {n: {**part, "mask": np.zeros(16, bool)} for n, part in bad.items()}
    (value, _), slopes = run(VARIABLES.params, none)
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))


def test_equal_entries_have_finite_gradients():
    params = flatten(VARIABLES.params) | {"backbone/layer0/kernel": np.zeros((5, 8), np.float32)}
    _, slopes = run(unflatten(params), ROWS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_eight_devices_have_the_gradients_of_one():
    one, eight = run(VARIABLES.params, ROWS), run(VARIABLES.params, put_batch(ROWS, mesh()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), eight, one)


def test_what_does_not_fit_is_refused():
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"style: weight={weight}"):
            alignments.sagnet(NET, top(3), NAMES, weight=weight)
    with pytest.raises(ValueError, match="style: domains='ab'"):
        alignments.sagnet(NET, top(3), "ab")
    with pytest.raises(ValueError, match=r"style: the network has the heads \['first', 'second'\]"):
        alignments.sagnet(network(backbone=dense(8), first=top(3), second=top(3)), top(3), NAMES)
    with pytest.raises(ValueError, match=r"name='head' is that of a part of the network, \['backbone', 'head'\]"):
        jax.eval_shape(lambda: alignments.sagnet(NET, top(3), NAMES, name="head").init(KEY, ROWS))
    wide = alignments.sagnet(NET, top(4), NAMES)
    variables = jax.eval_shape(lambda: wide.init(KEY, ROWS))
    with pytest.raises(ValueError, match=r"style: s gives \(32, 4\) and the head \(32, 3\)"):
        jax.eval_shape(lambda v: wide(v.params, {}, ROWS, KEY, 0)[0], variables)
    narrow = alignments.sagnet(network(backbone=dense(1), head=top(3)), top(3), NAMES)
    variables = jax.eval_shape(lambda: narrow.init(KEY, ROWS))
    with pytest.raises(ValueError, match="style: the head reads 1 entry per row; one has no variance"):
        jax.eval_shape(lambda v: narrow(v.params, {}, ROWS, KEY, 0)[0], variables)
