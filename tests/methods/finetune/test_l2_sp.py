import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, parts

from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.l2_sp import l2_sp
from jtl.model import Variables, cast_floating
from jtl.params import flatten, unflatten
from jtl.train.step import make_step


def test_the_term_is_the_sum_of_squares_parameter_by_parameter(key):
    rows = batch()
    net, _, loaded = parts(key, rows["x"])
    objective = finetune(net, terms=[l2_sp(0.3, head=0.7)])
    start = objective.init(key, rows, loaded)
    draw = np.random.default_rng(0)
    moved = {p: w + draw.normal(size=w.shape).astype(np.float32) for p, w in flatten(start.params).items()}
    loss, _ = objective(unflatten(moved), start.stats, rows, key, 0)
    expected = 0.0
    for path, w in moved.items():
        if path.startswith("backbone/"):
            expected += 0.15 * float(((np.asarray(w) - np.asarray(flatten(loaded.params)[path])) ** 2).sum())
        else:
            expected += 0.35 * float((np.asarray(w) ** 2).sum())
    np.testing.assert_allclose(loss["l2_sp"].value, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_term_is_zero_at_the_start_in_any_precision(key, dtype):
    rows = batch()
    net, _, loaded = parts(key, rows["x"])
    objective = finetune(net, terms=[l2_sp(0.3)])
    start = objective.init(key, rows, loaded)
    loss, _ = objective(cast_floating(start.params, dtype), start.stats, rows, key, 0)
    assert float(loss["l2_sp"].value) == 0


def test_a_step_pulls_towards_the_start_and_keeps_it(key):
    rows = batch()
    net, _, loaded = parts(key, rows["x"])
    objective = finetune(net, lambda z, y: 0.0 * z.sum(-1), terms=[l2_sp(0.5)], metrics={})
    start = objective.init(key, rows, loaded)
    moved = Variables(jax.tree.map(lambda w: w + 1.0, start.params), start.stats)
    step = make_step(objective, optax.sgd(1.0), microbatch=2)
    after, metrics = jax.jit(step)(step.init(moved, key), rows)
    for path, w in flatten(after.params["backbone"]).items():  # w − 0.5 (w − w⁰), whatever the microbatches
        np.testing.assert_allclose(w, flatten(loaded.params["backbone"])[path] + 0.5, rtol=1e-5, atol=1e-6)
    kept = jax.tree.map(np.testing.assert_array_equal, after.stats["l2_sp"]["backbone"], loaded.params["backbone"])
    assert len(jax.tree.leaves(kept)) == 0
    assert {"loss", "supervised", "l2_sp"} <= metrics.keys()


@pytest.mark.parametrize("of", [finetune, adapt])
def test_a_step_in_bfloat16_sees_moves_that_its_rounding_hides(key, of):
    rows = {"source": batch()} if of is adapt else batch()
    terms = [l2_sp(0.5)]
    net, _, loaded = parts(key, batch()["x"])
    objective = of(net, lambda z, y: 0.0 * z.sum(-1), terms, metrics={})
    start = objective.init(key, rows, loaded)
    moved = Variables(jax.tree.map(lambda w: w + 2.0**-12, start.params), start.stats)
    step = make_step(objective, optax.sgd(1.0), dtype=jnp.bfloat16)
    after, metrics = jax.jit(step)(step.init(moved, key), rows)
    count = sum(w.size for w in jax.tree.leaves(loaded.params["backbone"]))
    np.testing.assert_allclose(metrics["l2_sp"], 0.25 * 2.0**-24 * count, rtol=1e-3)
    for path, w in flatten(after.params["backbone"]).items():  # w − 0.5 (w − w⁰)
        np.testing.assert_allclose(w - flatten(loaded.params["backbone"])[path], 2.0**-13, rtol=1e-2)


def test_it_serves_adaptation_too(key):
    rows = {"source": batch(), "target": {"x": batch(seed=1)["x"]}}
    net, _, loaded = parts(key, rows["source"]["x"])
    objective = adapt(net, alignments=[l2_sp(0.5)])
    start = objective.init(key, rows, loaded)
    loss, _ = objective(jax.tree.map(lambda w: w + 1.0, start.params), start.stats, rows, key, 0)
    count = sum(w.size for w in jax.tree.leaves(loaded.params["backbone"]))
    np.testing.assert_allclose(loss["l2_sp"].value, 0.25 * count, rtol=1e-5)


def test_bad_input_raises(key):
    rows = batch()
    net, _, _ = parts(key, rows["x"])
    with pytest.raises(ValueError, match=r"l2_sp: head=-0\.1; give a finite number"):
        l2_sp(0.1, head=-0.1)
    with pytest.raises(ValueError, match="l2_sp: weight=nan"):
        l2_sp(float("nan"))
    twice = finetune(net, terms=[l2_sp(0.1), l2_sp(0.1)])
    with pytest.raises(ValueError, match="already hold 'l2_sp'"):
        twice.init(key, rows)
    clash = finetune(net, terms=[lambda p, s, v, k, t: l2_sp(0.1, name="a")(p, s, v, k, t)] * 2)
    start = finetune(net, terms=[l2_sp(0.1, name="a")]).init(key, rows)
    with pytest.raises(ValueError, match=r"term 1 uses the names \['a'\]"):
        clash(start.params, start.stats, rows, key, 0)
