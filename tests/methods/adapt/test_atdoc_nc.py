"""ATDOC-NC against class means kept in numpy over steps of a network, and its nearest centres against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, largest_difference, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.atdoc_nc import atdoc_nc, moved_centres, nearest_centre
from jtl.model import Variables
from jtl.networks import network
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(4))
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(60, 5)).astype(np.float32)
SOURCE = {"x": X[:8] + 1, "y": DRAW.integers(0, 4, 8)}
GAMMA = 0.3


def batch_of(step):
    """A draw of the target, in which every sixth row only fills up the batch."""
    rows = np.random.default_rng(step).choice(60, 12, replace=False)
    mask = np.arange(12) % 6 != 5
    return {"source": SOURCE, "target": {"x": np.where(mask[:, None], X[rows], np.nan), "mask": mask}}


def outputs(params, x):
    out = NET.apply(Variables(params, {}), x, train=False)[0]
    z = np.float64(out.output)
    e = np.exp(z - z.max(1, keepdims=True))
    return np.float64(out.features["pooled"]), e / e.sum(1, keepdims=True)


def test_steps_are_those_of_class_means_kept_by_hand():
    objective = adapt(NET, alignments=[atdoc_nc(lambda step: 0.5 * step, momentum=GAMMA)])
    variables = objective.init(KEY, batch_of(0))
    steps = [make_step(objective, optax.sgd(0.3), microbatch=parts) for parts in (1, 2)]
    states, runs = [s.init(variables, KEY) for s in steps], [jax.jit(s) for s in steps]
    known, seen, absent = {}, set(), 0
    for i in range(8):
        batch = batch_of(i)
        f, p = outputs(states[0].params, batch["target"]["x"][batch["target"]["mask"]])
        wanted, agrees = [], []
        for row, features in enumerate(f):
            if known:
                cosines = {
                    c: features @ m / np.linalg.norm(features) / np.linalg.norm(m) for c, m in sorted(known.items())
                }
                label = max(cosines, key=cosines.get)
                wanted.append(-np.log(p[row, label]))
                agrees.append(label == p[row].argmax())
                seen.add(label)
        for c in range(4):
            own = f[p.argmax(1) == c]
            absent += not len(own) and c in known
            if len(own):
                known[c] = (1 - GAMMA) * known[c] + GAMMA * own.mean(0) if c in known else own.mean(0)
        found = [run(state, batch) for run, state in zip(runs, states, strict=True)]
        states = [state for state, _ in found]
        for state, metrics in found:
            np.testing.assert_allclose(metrics["atdoc_nc"], 0.5 * i * np.mean(wanted) if i else 0.0, rtol=1e-4)
            np.testing.assert_allclose(metrics["atdoc_nc_agrees"], np.mean(agrees) if i else 0.0, rtol=1e-6)
            for c, centre in enumerate(jax.device_get(state.stats["atdoc_nc"]["centres"])):
                np.testing.assert_allclose(centre, known.get(c, np.zeros(8)), atol=2e-5)
            assert not np.any(state.stats["atdoc_nc"]["counts"])
    assert len(seen) > 1
    assert absent
    again = objective.init(KEY, batch_of(0), Variables(states[0].params, states[0].stats))
    assert largest_difference(again.stats, states[0].stats) == 0


def test_the_gradient_is_that_of_a_cross_entropy_whose_labels_are_held():
    """Of features too, on which the labels depend."""
    objective, rows = adapt(NET, alignments=[atdoc_nc(2.0)]), batch_of(0)
    variables = objective.init(KEY, rows)
    centres = jnp.asarray(DRAW.normal(size=(4, 8)), jnp.float32)
    stats = {"atdoc_nc": {**variables.stats["atdoc_nc"], "centres": centres}}
    x = rows["target"]["x"][rows["target"]["mask"]]
    f, _ = outputs(variables.params, x)
    labels = (f @ (np.asarray(centres) / np.linalg.norm(centres, axis=1, keepdims=True)).T).argmax(1)

    def by_hand(params):
        z = NET.apply(Variables(params, {}), x, train=False)[0].output
        return -2.0 * jax.nn.log_softmax(z)[jnp.arange(len(x)), labels].mean()

    def ours(params):
        return objective(params, stats, rows, KEY, 0)[0]["atdoc_nc"].value

    wanted, found = (jax.jit(jax.value_and_grad(run))(variables.params) for run in (by_hand, ours))
    assert largest_difference(found, wanted) < 1e-6
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found[1])) > 1e-2


def test_nearest_centres_are_those_of_scikit_learn():
    nearest = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(1, metric="cosine")
    centres, f = DRAW.normal(size=(5, 4)) * [[1], [9], [0.1], [3], [1]], DRAW.normal(size=(200, 4))
    with jax.enable_x64(True):
        found, known = nearest_centre(jnp.asarray(f), jnp.asarray(centres))
        without = nearest_centre(jnp.asarray(f), jnp.asarray(centres).at[1].set(0.0))
    np.testing.assert_array_equal(found, nearest.fit(centres, np.arange(5)).predict(f))
    others = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(without[0], nearest.fit(centres[others], others).predict(f))
    assert (np.asarray(known).all(), np.asarray(without[1]).tolist()) == (True, [True, False, True, True, True])


def test_a_momentum_of_one_keeps_the_last_means_alone():
    old, means = DRAW.normal(size=(3, 4)).astype(np.float32), DRAW.normal(size=(3, 4)).astype(np.float32)
    counts = np.array([2.0, 0.0, 5.0], np.float32)
    found = moved_centres(*map(jnp.asarray, (old, means * counts[:, None], counts)), 1.0)
    np.testing.assert_allclose(found, np.where(counts[:, None] > 0, means, old), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    for make, message in (
        (lambda: atdoc_nc(momentum=0.0), r"momentum=0\.0: must be a number in \(0, 1\]"),
        (lambda: atdoc_nc(-1.0), r"atdoc_nc: weight=-1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    objective = adapt(NET, alignments=[atdoc_nc()])
    variables = objective.init(KEY, batch_of(0))
    with pytest.raises(ValueError, match="already hold 'atdoc_nc'"):
        objective.init(KEY, batch_of(0), variables._replace(stats={"atdoc_nc": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"atdoc_nc: feature='map' of 'target' must be"):
        adapt(NET, alignments=[atdoc_nc(feature="map")]).init(KEY, batch_of(0))
