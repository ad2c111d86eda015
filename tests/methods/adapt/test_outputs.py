"""Alignments and the outputs of other tasks than classification: each takes them as what they are, or names them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense, top

import jtl
from jtl import alignments, heads
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.networks import network

KEY = jax.random.key(0)
NET = network(backbone=dense(4), head=top(1))
OF_ROWS = {
    "atdoc": alignments.atdoc(9),
    "bnm": alignments.bnm(),
    "cdan": alignments.cdan(top(1)),
    "entropy": alignments.entropy(),
    "fixmatch": alignments.fixmatch(),
    "flexmatch": alignments.flexmatch(9),
    "information": alignments.information_maximisation(),
    "jmmd": alignments.jmmd(),
    "mcc": alignments.mcc(),
    "pseudo": alignments.pseudo_labels(),
    "teacher": alignments.mean_teacher(NET),
    "vat": alignments.vat(NET),
}
SHAPES = {"one number per row": (4, 1), "a map of classes": (4, 2, 3, 3), "a class per token": (4, 5, 3)}


@pytest.mark.parametrize("kind", SHAPES)
def test_alignments_of_rows_of_classes_name_other_outputs(kind):
    """A single number has the probability 1 and the entropy 0 whatever it is: such a term did nothing, in silence."""
    z, f = jnp.zeros(SHAPES[kind]), jnp.ones((4, 6))
    views = {n: View({"pooled": f}, z, f, jnp.arange(4), None, {}) for n in ("source", "target", "strong")}
    for name, alignment in OF_ROWS.items():

        def run(alignment=alignment):
            made = alignment.init(KEY, views, jtl.Variables({"head": {}}, {}))
            alignment(made.params, made.stats, views, KEY, 0)

        with pytest.raises(ValueError, match=r"classes|logits") as error:
            run()
        assert str(SHAPES[kind]) in str(error.value), name


def test_a_penalty_on_logits_takes_one_number_per_row():
    views = {"source": View({}, jnp.full((4, 1), 3.0), None, None, None, {})}
    term = jtl.finetuning.spectral_decoupling(1.0)({}, {}, views, KEY, 0)[0]
    np.testing.assert_allclose(total(term), 4.5)


def places(shape=(3, 2, 4), seed=0):
    """Features of maps as they are, and each place as a row, with their masks."""
    draw, found = np.random.default_rng(seed), ({}, {})
    for domain, n, mask in (("source", 3, [True, False, True]), ("target", 2, [True, True])):
        f = draw.normal(size=(n, *shape[1:], 5)).astype(np.float32)
        found[0][domain] = View({"last": jnp.asarray(f)}, None, None, None, np.array(mask), {})
        rows = jnp.asarray(f.reshape(-1, 5))
        found[1][domain] = View({"last": rows}, None, None, None, np.repeat(mask, f[0, ..., 0].size), {})
    return found


def test_a_critic_of_maps_counts_places_as_a_critic_of_rows_counts_rows():
    critic = heads.per_position(1)
    maps, rows = places()
    pair = jtl.dann(critic, 0.3), jtl.dann(critic._replace(reads=jtl.reads.reads("last")), 0.3)
    made = pair[0].init(KEY, maps)
    names = "critic_accuracy", "critic_a_distance"

    def run(alignment, views):
        def loss(features):
            given = {d: v._replace(features={"last": features[d]}) for d, v in views.items()}
            terms, aux = alignment(made.params, {}, given, KEY, 0)
            return total(terms), {n: aux.metrics[n].value for n in names}

        return jax.jit(jax.value_and_grad(loss, has_aux=True))({d: v.features["last"] for d, v in views.items()})

    (value, found), slopes = run(pair[0], maps)
    (wanted, others), wanted_slopes = run(pair[1], rows)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, others)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.reshape(-1, 5), b, atol=1e-7), slopes, wanted_slopes)
    assert np.abs(slopes["target"]).max() > 1e-3


def test_weights_of_rows_are_not_for_a_critic_of_maps():
    maps, critic = places()[0], heads.per_position(1)
    for alignment in (alignments.iwan(critic, top(1)._replace(reads=critic.reads)), alignments.iwan(critic, critic)):
        made = alignment.init(KEY, maps)
        with pytest.raises(ValueError, match=r"it must give one logit each, \[batch, 1\]$"):
            alignment(made.params, {}, maps, KEY, 0)


def test_mcd_of_maps_is_that_of_pixels_and_has_metrics_of_the_task():
    draw, task = np.random.default_rng(0), jtl.tasks.segmentation(3)
    f = draw.normal(size=(4, 2, 3, 5)).astype(np.float32)
    y = draw.integers(0, 3, (4, 4, 6))

    def turns(of_maps):
        reads = jtl.reads.whole("last") if of_maps else jtl.reads.reads("last")
        body = jtl.Model(
            lambda key, x: jtl.Variables({}, {}),
            lambda variables, x, *, train, key=None: ({"last": x}, variables.stats),
        )
        head = heads.per_position(3, reads=reads)
        loss, metrics = (task.loss, task.metrics) if of_maps else (jtl.losses.cross_entropy, {})
        return alignments.mcd(network(backbone=body, head=head), head, loss, metrics=metrics)

    rows = f.reshape(-1, 5)
    batches = (
        {"source": {"x": f, "y": y[:, ::2, ::2]}, "target": {"x": 2 * f, "mask": np.arange(4) < 3}},
        {"source": {"x": rows, "y": y[:, ::2, ::2].ravel()}, "target": {"x": 2 * rows, "mask": np.arange(24) < 18}},
    )
    values = []
    variables = jax.jit(turns(True)[0].init)(KEY, batches[0])
    for of_maps, batch in zip((True, False), batches, strict=True):
        second = turns(of_maps)[1]
        terms = jax.jit(lambda v, batch, second=second: second(v.params, v.stats, batch, KEY, 0)[0])(variables, batch)
        values.append({name: float(term.value) for name, term in terms.items()})
    assert values[0].keys() == values[1].keys()
    for name, value in values[0].items():
        np.testing.assert_allclose(value, values[1][name], rtol=1e-6)
    assert abs(values[0]["discrepancy"]) > 1e-3
    full = {**batches[0], "source": {"x": f, "y": y}}  # labels of twice the outputs' size
    first = turns(True)[0]
    aux = jax.eval_shape(lambda v: first(v.params, v.stats, full, KEY, 0)[1], variables)
    assert {"accuracy", "iou"} <= aux.metrics.keys()
    one = alignments.mcd(network(backbone=dense(4), head=top(1)), top(1), jtl.losses.mse, metrics={})[0]
    flat = {"source": {"x": rows, "y": rows[:, :1]}, "target": {"x": rows}}
    with pytest.raises(ValueError, match=r"return \(24, 1\) and \(24, 1\) for the target; .*two or more"):
        jax.eval_shape(lambda: one(one.init(KEY, flat).params, {}, flat, KEY, 0))
