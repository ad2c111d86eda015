"""Laws of all alignments that need no critic, through `adapt` and a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl import alignments
from jtl.methods.views import View
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))
WIDE = network(backbone=dense(40), head=top(3))
CASES = {
    "adamatch": alignments.adamatch(NET, threshold=0.6, momentum=0.5),
    "afn": alignments.afn(),
    "atdoc": alignments.atdoc(40, neighbours=3),
    "atdoc_nc": alignments.atdoc_nc(),
    "bnm": alignments.bnm(),
    "bsp": alignments.bsp(0.1),
    "can": alignments.can(40, predictions=False),
    "coral": alignments.coral(10.0),
    "daregram": alignments.daregram(angle=1.0, scale=0.1, threshold=0.97),
    "deep_jdot": alignments.deep_jdot(feature_cost=0.5, label_cost=0.5),
    "domain_mixup": alignments.domain_mixup(NET, alpha=0.5, shared=True),
    "entropy": alignments.entropy(),
    "fixmatch": alignments.fixmatch(threshold=0.4),
    "flexmatch": alignments.flexmatch(40, threshold=0.4),
    "information": alignments.information_maximisation(),
    "mcc": alignments.mcc(),
    "jmmd": alignments.jmmd(),
    "jmmd biased": alignments.jmmd(estimator="biased", features=("pooled", "last")),
    "lmmd": alignments.lmmd(),
    "mmd": alignments.mmd(),
    "mmd biased": alignments.mmd(estimator="biased"),
    "mmd linear": alignments.mmd(estimator="linear"),
    "mme": alignments.mme(NET),
    "nwd": alignments.nwd(NET),
    "teacher": alignments.mean_teacher(NET, 10.0),
    "pseudo": alignments.pseudo_labels(threshold=0.4),
    "rsd": alignments.rsd(0.1),
    "sliced": alignments.sliced_wasserstein(projections=8),
    "spa": alignments.spa(),
    "vat": alignments.vat(NET, 10.0, radius=1.0),
}
BY_PLACE = {"vat"}
"""Another direction is drawn for each place in a batch."""
IN_ORDER = {"mmd linear"} | BY_PLACE
DRAWS = {"domain_mixup", "sliced"} | BY_PLACE
"""A pmapped device draws from a stream of its own."""
BY_ROW = ["afn", "atdoc_nc", "entropy", "fixmatch", "flexmatch", "mme", "pseudo", "teacher"]
BY_ROW_NUMBER = ("atdoc", "can", "flexmatch")
"""The target's y are its rows in a memory."""
MEMORIES = {
    "atdoc": {"features": jnp.cos(jnp.arange(320.0)).reshape(40, 8), "predictions": jnp.eye(3)[jnp.arange(40) % 3]},
    "atdoc_nc": {"centres": jnp.cos(jnp.arange(24.0)).reshape(3, 8), "sums": jnp.zeros((3, 8)), "counts": jnp.zeros(3)},
    "can": jnp.arange(40) % 4 - 1,
}
"""Of what a run has after its first steps; -1 is no label."""
every = pytest.mark.parametrize("name", CASES)


def data(name=""):
    """Masked domains that overlap: 24 of 32 rows and so on count; rows of domains that are mixed have one mask."""
    paired = name == "domain_mixup"
    n = 16 if paired else 24
    rows = {"source": batch(n=16, seed=0), "target": {"x": 0.7 * batch(n=n, seed=1)["x"] + 0.5}}
    for i, part in enumerate(rows.values()):
        part["mask"] = np.arange(len(part["x"])) % 4 != (1 if paired else i + 1)
    target = rows["target"]
    rows["strong"] = {"x": target["x"] + 0.3 * batch(n=n, seed=2)["x"], "mask": target["mask"]}
    if name in BY_ROW_NUMBER:
        target["y"] = np.arange(n) + 10  # their rows among all
    if name == "adamatch":
        source = rows["source"]
        rows["source_strong"] = {"x": source["x"] + 0.3 * batch(n=16, seed=3)["x"], "mask": source["mask"]}
    return rows


VARIABLES, WIDE_VARIABLES = (alignments.adapt(net).init(KEY, data()) for net in (NET, WIDE))
programs = {}


def made(name, rows):
    """The objective with the alignment, and its variables."""
    # Of more rows than features both domains span all there is, and RSD has nothing to do.
    net, given = (WIDE, WIDE_VARIABLES) if name == "rsd" else (NET, VARIABLES)
    given = given._replace(stats={**given.stats, **{n: m for n, m in MEMORIES.items() if n == name}})
    objective = CASES[name] if name == "adamatch" else alignments.adapt(net, alignments=[CASES[name]])
    return objective, objective.init(KEY, rows, given)


def found(name, rows):
    """The alignment's terms alone, their sum's gradient, compiled once for each shape."""
    objective, variables = made(name, rows)
    if name not in programs:

        def loss(params, stats, rows):
            terms = as_terms(objective(params, stats, rows, KEY, 3)[0])
            return total({n: t for n, t in terms.items() if n not in ("source", "source_strong")})

        programs[name] = jax.jit(jax.value_and_grad(loss))
    return jax.device_get(programs[name](variables.params, variables.stats, rows))


OF_VECTORS = 4e-5  # singular vectors of another matrix, whose smallest value is a hundredth of the largest, in float32


def tolerance(name):
    return OF_VECTORS if name in ("daregram", "rsd", "spa") else 2e-6


def same(a, b, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=atol), a, b)


@every
def test_the_alignment_has_a_gradient_and_masked_rows_reach_nothing(name):
    rows = data(name)
    value, gradient = found(name, rows)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-4
    spoilt = {
        view: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for view, part in rows.items()
    }
    same(found(name, spoilt), (value, gradient))
    if name in BY_PLACE:
        return
    alone = {view: {n: a[part["mask"]] for n, a in part.items()} for view, part in rows.items()}
    same(found(name, alone), (value, gradient), tolerance(name))


@every
def test_a_fully_masked_target_gives_zero_and_a_finite_gradient(name):
    rows = data(name)
    for view in ("target", "strong"):
        bad = {"x": np.full_like(rows["target"]["x"], np.nan), "mask": np.zeros(len(rows["target"]["x"]), bool)}
        rows[view] = {**rows[view], **bad}
    value, gradient = found(name, rows)
    if name == "afn":  # a mean over the rows of both domains: those of the source are left
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        return
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", sorted(set(CASES) - IN_ORDER))
def test_the_order_of_rows_does_not_matter(name):
    rows = data(name)
    draw = np.random.default_rng(5)
    mixed = {}
    orders = {"source": draw.permutation(16), "target": draw.permutation(len(rows["target"]["x"]))}
    if name == "domain_mixup":  # row i of one domain is mixed with row i of the other
        orders["target"] = orders["source"]
    for view, part in rows.items():
        order = orders["source" if "source" in view else "target"]  # two views of the same rows move together
        mixed[view] = {n: a[order] for n, a in part.items()}
    same(found(name, mixed), found(name, rows), tolerance(name))


@every
def test_equal_rows_have_finite_gradients(name):
    rows = data(name)
    for part in rows.values():
        part["x"] = np.zeros_like(part["x"])
    _, gradient = found(name, rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@every
def test_eight_devices_take_the_step_of_one(name):
    rows = data(name)
    objective, variables = made(name, rows)
    step = make_step(objective, optax.sgd(0.1))
    results = []
    for grid in (mesh(devices=jax.devices()[:1]), mesh()):
        run, state = jit_step(step, step.init(variables, KEY), grid)
        state, metrics = run(state, put_batch(rows, grid))
        results.append(jax.device_get((state.params, metrics)))
    assert largest_difference(results[0][0], results[1][0]) < 1e-5
    same(results[0][1], results[1][1])


@pytest.mark.parametrize("name", sorted(set(CASES) - DRAWS))
def test_pmapped_devices_take_the_step_of_one(name):
    """Each of them sees its own rows, and a term of the whole batch needs those of all."""
    rows = data(name)
    objective, variables = made(name, rows)
    step = make_step(objective, optax.sgd(0.1))
    state = step.init(variables, KEY)
    wanted, metrics = jax.device_get(jax.jit(step)(state, rows))
    found, others = pmap_step(step)(replicated(state), split_batch(rows))
    assert largest_difference(jax.device_get(unreplicated(found)).params, wanted.params) < 1e-5
    same(jax.device_get(others), metrics)


@pytest.mark.parametrize("name", BY_ROW)
def test_parts_of_a_batch_add_up_where_rows_stand_alone(name):
    rows = data(name)
    objective, variables = made(name, rows)
    states = []
    for parts in (1, 2):
        step = make_step(objective, optax.sgd(0.1), microbatch=parts)
        states.append(jax.jit(step)(step.init(variables, KEY), rows)[0])
    assert largest_difference(states[0].params, states[1].params) < 1e-6


def test_a_weight_may_follow_the_step():
    def terms(weight, step):
        objective = alignments.adapt(NET, alignments=[alignments.coral(weight)])
        return objective(VARIABLES.params, {}, data(), KEY, step)[0]["coral"].value

    np.testing.assert_allclose(terms(lambda step: 0.5 * step, 3), 1.5 * terms(1.0, 0), rtol=1e-6)


def test_missing_views_and_features_are_named():
    rows = data()
    with pytest.raises(ValueError, match=r"coral: feature='map' of 'source' must be \[batch, width\]"):
        alignments.adapt(NET, alignments=[alignments.coral(feature="map")])(VARIABLES.params, {}, rows, KEY, 0)
    del rows["target"]
    for name in ("coral", "entropy"):
        with pytest.raises(ValueError, match=f"{name} needs a view 'target'; the batch has"):
            alignments.adapt(NET, alignments=[CASES[name]])(VARIABLES.params, {}, rows, KEY, 0)
    maps = rows["source"]["x"], {"a": jnp.zeros((16, 3))}
    views = {"target": View({}, maps[1], maps[0], None, None, {})}
    with pytest.raises(ValueError, match=r"entropy: the output of 'target' must be logits .*'a': \(16, 3\)"):
        CASES["entropy"](VARIABLES.params, {}, views, KEY, 0)
