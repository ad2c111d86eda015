"""FlexMatch against a list of the rows' classes, over steps of a network; what reaches the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, largest_difference, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.flexmatch import flexmatch
from jtl.methods.views import View
from jtl.model import Variables
from jtl.networks import network
from jtl.train.step import make_step

KEY = jax.random.key(0)
ROWS, TAU = 30, 0.9
NET = network(backbone=dense(8), head=top(3))
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(ROWS, 5)).astype(np.float32)
SOURCE = {"x": X[:8] + 1, "y": DRAW.integers(0, 3, 8)}


def batch_of(step):
    """A draw of the target, in which the last two rows only fill up the batch."""
    rows = np.random.default_rng(step).choice(ROWS, 12, replace=False)
    mask = np.arange(12) < 10
    return {"source": SOURCE, "target": {"x": X[rows], "y": rows, "mask": mask}, "strong": {"x": 0.5 * X[rows]}}


def softmax(params, x):
    z = np.float64(NET.apply(Variables(params, {}), x, train=False)[0].output)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def limits_of(known):
    """`T_c`, by the paper's equations: a class is estimated by how many rows are predicted as it with certainty."""
    sigma = np.array([sum(k == c for k in known) for c in range(3)])
    beta = sigma / max(sigma.max(), sum(k == -1 for k in known))
    return TAU * beta / (2 - beta)


@pytest.fixture(scope="module")
def run():
    objective = adapt(NET, alignments=[flexmatch(ROWS, 2.0, threshold=TAU)])
    variables = objective.init(KEY, batch_of(0))
    params = {**variables.params, "head": jax.tree.map(lambda a: 12 * a, variables.params["head"])}  # some are sure
    return objective, variables._replace(params=params)


def test_steps_are_those_of_a_list_of_the_rows_classes(run):
    objective, variables = run
    known = [-1] * ROWS
    one, two = (make_step(objective, optax.sgd(0.01), microbatch=parts) for parts in (1, 2))
    state, other = one.init(variables, KEY), two.init(variables, KEY)
    one, two = jax.jit(one), jax.jit(two)
    learned = []
    for step in range(7):
        batch, before = batch_of(step), state.params
        p, q = softmax(before, batch["target"]["x"]), softmax(before, batch["strong"]["x"])
        limits, losses, sure = limits_of(known), [], []
        for i in range(10):
            c = p[i].argmax()
            sure.append(p[i, c] >= limits[c])
            losses.append(-np.log(q[i, c]) if sure[i] else 0.0)
        for i in range(10):
            if p[i].max() >= TAU:
                known[batch["target"]["y"][i]] = int(p[i].argmax())
        state, metrics = one(state, batch)
        other, _ = two(other, batch)
        np.testing.assert_allclose(metrics["flexmatch"], 2 * np.mean(losses), rtol=1e-4)
        np.testing.assert_allclose(metrics["flexmatch_confident"], np.mean(sure), rtol=1e-6)
        np.testing.assert_allclose(metrics["flexmatch_threshold"], limits.mean(), rtol=1e-5)
        np.testing.assert_array_equal(state.stats["flexmatch"]["labels"], known)
        assert largest_difference(other.params, state.params) < 1e-5  # thresholds are those before the step
        learned.append(np.mean(sure))
    assert learned[0] == 1 > min(learned)
    assert set(known) > {-1}
    assert len(set(limits_of(known))) == 3
    again = objective.init(KEY, batch_of(0), Variables(state.params, state.stats))
    assert largest_difference(again.stats, state.stats) == 0


def test_what_does_not_fit_is_refused(run):
    objective, variables = run
    for make, message in (
        (lambda: flexmatch(0), "rows=0"),
        (lambda: flexmatch(5, threshold=1.5), r"threshold=1.5: must be a number in \[0, 1\]"),
        (lambda: flexmatch(5, -1.0), "weight=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="already hold 'flexmatch'"):
        objective.init(KEY, batch_of(0), variables._replace(stats={"flexmatch": jnp.zeros(2)}))
    z = jnp.zeros((4, 3))
    views = {n: View({}, z, None, None, None, {}) for n in ("target", "strong")}
    with pytest.raises(ValueError, match="y of 'target' must be the row of each example"):
        flexmatch(5)({}, {}, views, KEY, 0)
    with pytest.raises(ValueError, match="needs a view 'target'"):
        flexmatch(5).init(KEY, {"strong": views["strong"]}, Variables({}, {}))
    for wrong, mask, message in (
        (np.arange(12) % 3, None, "4 examples of the batch have y=0; y must be the row of each example, not its"),
        (np.arange(12) + 20, None, "y=31 is no row of a target of 30 examples"),
        (np.maximum(np.arange(12), 2), np.arange(12) > 0, "2 examples of the batch have y=2"),
    ):
        rows = batch_of(0)
        rows["target"] |= {"y": wrong, "mask": np.ones(12, bool) if mask is None else mask}
        with pytest.raises(ValueError, match=f"flexmatch: {message}.*np.arange"):
            objective.init(KEY, rows)


def test_rows_of_eight_bits_are_those_of_thirty_two():
    """A masked row's place lies beyond the last: with 256 rows that was row 0."""
    z, mask = 9 * jnp.eye(3), np.array([True, False, True])
    views = {n: View({}, z, None, jnp.array([5, 6, 7], jnp.uint8), mask, {}) for n in ("target", "strong")}
    term = flexmatch(256)
    _, aux = term({}, term.init(KEY, views, Variables({}, {})).stats, views, KEY, 0)
    labels = np.asarray(aux.stats["flexmatch"]["labels"])
    assert {i: labels[i] for i in np.flatnonzero(labels >= 0)} == {5: 0, 7: 2}


def test_rows_outside_of_the_memory_reach_none_of_it():
    z = 9 * jnp.eye(3)
    views = {n: View({}, z, None, jnp.array([-1, 1, 7]), None, {}) for n in ("target", "strong")}
    term = flexmatch(3)
    rows = {n: view._replace(y=jnp.arange(3)) for n, view in views.items()}
    stats = term.init(KEY, rows, Variables({}, {})).stats
    _, aux = jax.jit(term.loss)({}, stats, views, KEY, 0)
    assert aux.stats["flexmatch"]["labels"].tolist() == [-1, 1, -1]
    assert term.commit(aux.stats, {})["flexmatch"]["counts"].tolist() == [0, 1, 0]
