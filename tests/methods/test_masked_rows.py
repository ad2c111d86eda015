"""NaN and infinity in rows and elements that do not count reach neither values nor gradients."""

import jax
import numpy as np
import pytest
from nets import batch, dense, parts, top

from jtl import alignments, losses
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network

pytestmark = pytest.mark.whole

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))


def gradient(objective, variables, rows):
    def loss(params):
        return total(as_terms(objective(params, variables.stats, rows, KEY, 0)[0]))

    return jax.jit(jax.value_and_grad(loss))(variables.params)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_a_masked_row_may_hold_anything(bad):
    rows, objective = batch(n=8), finetune(NET)
    variables = objective.init(KEY, rows)
    spoilt = {"x": np.concatenate([rows["x"], np.full((3, 5), bad, np.float32)]), "y": np.append(rows["y"], [0, 1, 2])}
    close(gradient(objective, variables, {**spoilt, "mask": np.arange(11) < 8}), gradient(objective, variables, rows))


def test_a_missing_target_may_be_nan():
    """A regression of several numbers, some of which are not known: rows by the mask, elements by weights."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(6, 5)).astype(np.float32), draw.normal(size=(6, 3)).astype(np.float32)
    weights = (draw.random((6, 3)) < 0.6).astype(np.float32)

    def squares(z, y):
        return (z - y) ** 2

    objective = finetune(NET, squares, metrics={})
    variables = objective.init(KEY, {"x": x, "y": y})
    known = gradient(objective, variables, {"x": x, "y": y, "weights": weights})
    missing = {"x": x, "y": np.where(weights > 0, y, np.nan).astype(np.float32), "weights": weights}
    close(gradient(objective, variables, missing), known)
    rows = {"x": x, "y": np.where(np.arange(6)[:, None] < 4, y, np.nan).astype(np.float32), "mask": np.arange(6) < 4}
    of_rows = finetune(NET, losses.mse, metrics={})
    close(gradient(of_rows, variables, rows), gradient(of_rows, variables, {"x": x[:4], "y": y[:4]}))


@pytest.mark.parametrize("name", ["vrex", "irm", "fishr", "group_dro", "mldg"])
def test_a_missing_target_may_be_nan_over_domains_too(name):
    """Of one domain the mask leaves it out, of the other a weight of 0."""
    net, names, draw = network(backbone=dense(4), head=top(1)), ("a", "b"), np.random.default_rng(0)
    options = {"loss": losses.mse, "metrics": {}}
    if name in ("group_dro", "mldg"):
        objective = getattr(alignments, name)(net, names, **options, **({"inner_lr": 0.1} if name == "mldg" else {}))
    else:
        over = (net, names) if name == "fishr" else (names,)
        term = getattr(alignments, name)(*over, loss=losses.mse)
        objective = adapt(net, alignments=[term], labelled=names, **options)
    kept = np.arange(8) < 6
    fields = zip(names, ("mask", "weights"), strict=True)
    rows = {d: {"x": draw.normal(size=(8, 5)).astype(np.float32), field: kept} for d, field in fields}
    known = {d: {**part, "y": part["x"][:, :1]} for d, part in rows.items()}
    missing = {d: {**part, "y": np.where(kept[:, None], part["y"], np.nan)} for d, part in known.items()}
    variables = objective.init(KEY, known)
    close(gradient(objective, variables, missing), gradient(objective, variables, known))


def test_a_masked_row_of_a_target_domain_may_hold_anything():
    net, critic, variables = parts(KEY, batch(n=8)["x"], critic=True)
    objective = adapt(net, alignments=[dann(critic)])
    source, target = batch(n=8), {"x": batch(n=6, seed=1)["x"]}
    spoilt = {"x": np.concatenate([target["x"], np.full((2, 5), np.nan, np.float32)]), "mask": np.arange(8) < 6}
    plain = gradient(objective, variables, {"source": source, "target": target})
    close(gradient(objective, variables, {"source": source, "target": spoilt}), plain)
    nothing = gradient(objective, variables, {"source": source, "target": {**spoilt, "mask": np.zeros(8, bool)}})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))
