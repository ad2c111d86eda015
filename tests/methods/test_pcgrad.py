import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, parts

from jtl._tracing import scope
from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.l2_sp import l2_sp
from jtl.methods.pcgrad import pcgrad, projected
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.params import select
from jtl.train.step import make_step
from jtl.typing import Aux

A, B = np.array([1.0, 0.0, 2.0], np.float32), np.array([-2.0, 1.0, 0.5], np.float32)


def losses(params, stats, batch, key, step):
    w = params["head"]["w"]
    mask = batch["mask"]
    values = {"a": batch["x"] * (w @ A), "b": batch["x"] * (w @ B)}
    return {name: mean(v, mask) for name, v in values.items()}, Aux(stats, {"norm": params["frozen"]["w"].sum()})


@pytest.fixture(scope="module")
def setup():
    batch = {"x": jnp.array([1.0, 2.0, 3.0]), "mask": jnp.array([True, True, False])}
    return batch, Variables({"head": {"w": jnp.array([0.1, 0.2, 0.3])}, "frozen": {"w": jnp.ones(2)}}, {})


def test_three_gradients_are_those_of_the_loop_in_one_of_the_orders():
    grads = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    grads[1] -= 2 * grads[0]
    for seed in range(4):
        found = projected(list(jnp.asarray(grads)), jax.random.key(seed))
        for i in range(3):
            j, k = (o for o in range(3) if o != i)
            candidates = []
            for order in ((j, k), (k, j)):
                g = grads[i].copy()
                for o in order:
                    g = g - min(g @ grads[o], 0) / (grads[o] @ grads[o]) * grads[o]
                candidates.append(g)
            assert min(np.abs(found[i] - g).max() for g in candidates) < 1e-5


def test_a_gradient_of_zero_and_no_conflict_change_nothing():
    one = [jnp.array([1.0, 0.0]), jnp.zeros(2), jnp.array([0.0, 3.0])]
    jax.tree.map(np.testing.assert_array_equal, projected(one, jax.random.key(0)), one)


def test_the_step_moves_along_the_projected_sum_and_reports_the_losses(setup):
    batch, start = setup
    mask = select("head/.*")
    plain = make_step(losses, optax.sgd(1.0), trainable=mask)
    step = make_step(pcgrad(losses, mask), optax.sgd(1.0), trainable=mask)
    state, found = jax.jit(step)(step.init(start, jax.random.key(0)), batch)
    a, b = 1.5 * A, 1.5 * B  # the mean of x over the rows kept
    assert a @ b < 0
    expected = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
    np.testing.assert_allclose(start.params["head"]["w"] - state.params["head"]["w"], expected, rtol=1e-5)
    _, wanted = jax.jit(plain)(plain.init(start, jax.random.key(0)), batch)
    assert found.keys() == wanted.keys()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, wanted)


def test_a_gradient_costs_one_pass_back_for_each_term(key):
    w = jnp.ones((64, 64))

    def two(params, stats, batch, key, step):
        del batch, key, step
        z = jnp.tanh(jnp.tanh(params["w"]) @ params["w"])
        return {"a": mean((z**2).mean(1)), "b": mean((z**4).mean(1))}, Aux(stats)

    def flops(objective):
        value = jax.grad(lambda p: sum(term.value for term in objective(p, {}, {}, key, 0)[0].values()))
        return jax.jit(value).lower({"w": w}).compile().cost_analysis()["flops"]

    # Both terms at once pass forward and back through one product; each term alone passes back through it.
    product = 2 * 64**3
    assert flops(pcgrad(two)) - flops(lambda *given: two(*given)) < 2.5 * product


def test_bad_input_raises(setup):
    batch, start = setup
    with pytest.raises(ValueError, match="at least two terms"):
        pcgrad(lambda *_: (jnp.zeros(()), Aux({})))(start.params, {}, batch, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="give a key"):
        pcgrad(losses)(start.params, {}, batch, None, 0)


def test_a_penalty_on_unrounded_parameters_stays_one_in_bfloat16(key):
    rows = batch(n=8)
    net, _, start = parts(key, rows["x"])
    objective = finetune(net, terms=[l2_sp(1.0)])
    variables = objective.init(key, rows, start)
    moved = Variables(jax.tree.map(lambda a: a * (1 + 1e-3), variables.params), variables.stats)
    found = []
    for one in (objective, pcgrad(objective)):
        step = make_step(one, optax.sgd(1.0), dtype=jnp.bfloat16, trainable=select("backbone/.*"))
        _, metrics = jax.jit(step)(step.init(moved, key), rows)
        found.append(float(metrics["l2_sp"]))
    exact = 0.5e-6 * sum(float((a.astype(jnp.float32) ** 2).sum()) for a in jax.tree.leaves(start.params["backbone"]))
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_the_gradient_of_a_penalty_on_unrounded_parameters_is_kept(key):
    def both(params, stats, batch, key, step):
        del batch, key, step
        w = scope.unrounded(params)["w"]
        return {"a": mean((w**2).sum()[None]), "b": mean((3 * params["w"]).sum()[None])}, Aux(stats)

    step = make_step(pcgrad(both), optax.sgd(1.0), dtype=jnp.bfloat16)
    w = jnp.array([1.001, 2.003])  # no numbers of bfloat16
    state, _ = jax.jit(step)(step.init(Variables({"w": w}, {}), key), {"x": jnp.ones(1)})
    np.testing.assert_allclose(w - state.params["w"], 2 * w + 3, rtol=4e-3)  # gradients are rounded, as of any step


def test_float32_parameters_stay_float32_under_x64(key):
    with jax.enable_x64():
        grads = [jnp.ones(2, jnp.float32), -jnp.ones(2, jnp.float32)]
        assert {g.dtype for g in projected(grads, key)} == {jnp.dtype("float32")}
