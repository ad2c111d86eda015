"""Domain-specific batch normalisation against passes of one domain alone, and the running statistics by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, normed, top

from jtl import alignments
from jtl.methods.adapt.adapt import adapt
from jtl.metrics.accumulate import as_terms, total
from jtl.model import Variables
from jtl.networks import network
from jtl.params import select
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=normed(6), head=top(3))
ROWS = {"source": batch(n=16), "target": {"x": 3 * batch(n=24, seed=1)["x"] + 2}}
OBJECTIVE = adapt(NET, alignments=[alignments.entropy(0.5)], own_norms=("source",))
VARIABLES = OBJECTIVE.init(KEY, ROWS)
MAKE = make_step(OBJECTIVE, optax.sgd(0.5))
STEP = jax.jit(MAKE)


def moved():
    return STEP(MAKE.init(VARIABLES, KEY), ROWS)


def test_the_step_is_that_of_two_passes_with_two_sets_of_layers():
    def by_hand(params):
        own = params["own_norms"]["source"]["backbone"]["norm"]
        source = {**params, "backbone": {**params["backbone"], "norm": own}}
        z, _ = NET.apply(Variables(source, VARIABLES.stats), ROWS["source"]["x"], train=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(z.output, jnp.asarray(ROWS["source"]["y"])).mean()
        z, _ = NET.apply(Variables(params, VARIABLES.stats), ROWS["target"]["x"], train=True)
        p = jax.nn.softmax(z.output)
        return loss + 0.5 * -(p * jnp.log(p)).sum(1).mean()

    value, g = jax.jit(jax.value_and_grad(by_hand))(VARIABLES.params)
    state, metrics = moved()
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    wanted = jax.tree.map(lambda p, g: p - 0.5 * g, VARIABLES.params, g)
    assert largest_difference(state.params, wanted) < 1e-6
    own, theirs = state.params["own_norms"]["source"]["backbone"]["norm"], state.params["backbone"]["norm"]
    assert largest_difference(own, theirs) > 1e-3


def test_running_statistics_are_each_domains():
    state, _ = moved()
    stats = jax.device_get(state.stats)
    for x, found in (
        (ROWS["source"]["x"], stats["own_norms"]["source"]["backbone"]["norm"]),
        (ROWS["target"]["x"], stats["backbone"]["norm"]),
    ):
        h = x @ np.asarray(VARIABLES.params["backbone"]["layer"]["kernel"])
        np.testing.assert_allclose(found["mean"], 0.1 * h.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["var"], 0.9 + 0.1 * h.var(0, ddof=1), rtol=1e-4)


def test_a_domain_predicts_by_its_own_layers():
    state, _ = moved()
    seen = alignments.of_domain(Variables(state.params, state.stats), "source")
    own = state.params["own_norms"]["source"]["backbone"]["norm"]
    assert largest_difference(seen.params["backbone"]["norm"], own) == 0
    assert largest_difference(seen.stats["backbone"], state.stats["own_norms"]["source"]["backbone"]) == 0
    assert NET.apply(seen, ROWS["source"]["x"], train=False)[0].output.shape == (16, 3)
    with pytest.raises(ValueError, match=r"'target' has no normalisation layers of its own; .*\['source'\]"):
        alignments.of_domain(VARIABLES, "target")


def test_given_layers_are_kept():
    given = jax.tree.map(lambda a: a + 1, VARIABLES)
    assert largest_difference(OBJECTIVE.init(KEY, ROWS, given), given) == 0


def test_pmapped_devices_take_the_step_of_one():
    step = make_step(OBJECTIVE, optax.sgd(0.5))
    eight, _ = pmap_step(step)(replicated(step.init(VARIABLES, KEY)), split_batch(ROWS))
    one, _ = moved()
    found = jax.device_get(unreplicated(eight))
    assert largest_difference((found.params, found.stats), (one.params, one.stats)) < 1e-5


def test_masked_rows_give_no_nan():
    none = {"source": ROWS["source"], "target": {"x": np.full((24, 5), np.nan, np.float32), "mask": np.zeros(24, bool)}}

    def loss(params):
        return total(as_terms(OBJECTIVE(params, VARIABLES.stats, none, KEY, 0)[0]))

    value, g = jax.jit(jax.value_and_grad(loss))(VARIABLES.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, g)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"own_norms=\('second',\): the batch has no views \['second'\]"):
        adapt(NET, own_norms=("second",))(VARIABLES.params, VARIABLES.stats, ROWS, KEY, 0)
    with pytest.raises(ValueError, match="no view is left"):
        adapt(NET, own_norms=("source", "target"))(VARIABLES.params, VARIABLES.stats, ROWS, KEY, 0)
    for term in (alignments.mean_teacher(NET, student="target"), alignments.domain_mixup(NET, alpha=1.0)):
        objective = adapt(NET, alignments=[term], own_norms=("target",))
        given = objective.init(KEY, ROWS)
        with pytest.raises(ValueError, match="predicts 'target' by the network's own normalisation layers"):
            objective(given.params, given.stats, ROWS, KEY, 0)
    with pytest.raises(ValueError, match="no normalisation layer"):
        adapt(network(backbone=dense(4), head=top(3)), own_norms=("source",)).init(KEY, ROWS)


@pytest.mark.parametrize(
    ("trains", "moves"), [("own_norms/.*", {"own_norms"}), ("(backbone|head)/.*", {"backbone"}), ("head/.*", set())]
)
def test_statistics_of_a_domain_move_where_its_own_layers_are_trained(trains, moves):
    step = make_step(OBJECTIVE, optax.sgd(0.5), trainable=select(trains))
    state, _ = jax.jit(step)(step.init(VARIABLES, KEY), ROWS)
    moved = {name for name in VARIABLES.stats if largest_difference(state.stats[name], VARIABLES.stats[name]) > 0}
    assert moved == moves
