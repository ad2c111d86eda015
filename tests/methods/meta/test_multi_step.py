"""MAML++: its loss after every step against a loop by hand, per-step parameters, annealing of the order by phases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, quadratic, quadratic_tasks
from nets import normed, top

from jtl import model
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.inner_loop import adapt_to, start_of
from jtl.methods.meta.maml import meta
from jtl.methods.meta.multi_step import annealed_weights, multi_step
from jtl.methods.meta.over_episodes import over_episodes
from jtl.methods.meta.per_step_rates import per_step_rates
from jtl.methods.meta.update_rules import fixed_rate
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.step import make_step
from jtl.train.turns import Phase


def test_the_loss_is_the_weighted_one_after_each_step(key):
    """On quadratics, where θ_k = b + (I − αA)^k (θ − b); and its gradient Σ_k w_k (I − αA)^k B (θ_k − b_q)."""
    with jax.enable_x64(True):
        rows, theta = quadratic_tasks()
        alpha, steps = 0.1, 3
        weights = np.array([0.2, 0.3, 0.5])
        objective = multi_step(
            adapt_to(quadratic, fixed_rate(alpha), steps=steps), quadratic, lambda step: weights * step
        )

        def f(w):
            return total(objective({"w": w}, {}, jax.tree.map(jnp.asarray, rows), key, 1)[0])

        value, slope = jax.jit(jax.value_and_grad(f))(jnp.asarray(theta))
        expected, gradient = 0.0, 0.0
        for t in range(3):
            (a, b), (c, d) = ([rows[half][n][t] for n in ("A", "b")] for half in ("support", "query"))
            for k, w in enumerate(weights, 1):
                jacobian = np.linalg.matrix_power(np.eye(4) - alpha * a, k)
                off = b + jacobian @ (theta - b) - d
                expected += w * 0.5 * off @ c @ off / 3
                gradient += w * jacobian @ c @ off / 3
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(slope, gradient, rtol=1e-12)


def test_all_weight_on_the_last_step_is_maml(key):
    rows = few_shot()
    inner = finetune(network(backbone=normed(8), head=top(3)))
    adapt = adapt_to(inner, fixed_rate(0.1), steps=2)
    variables = meta(adapt, inner).init(key, rows)
    results = []
    for objective in (meta(adapt, inner), multi_step(adapt, inner, lambda step: jnp.array([0.0, 1.0]))):
        loss, aux = objective(*variables, rows, key, 0)
        results.append((total(loss), aux.metrics["accuracy"].value))
    np.testing.assert_allclose(*results, rtol=1e-6)


@pytest.mark.parametrize("step", [0, 7, 20])
def test_weights_are_those_of_the_papers_code(step):
    """Which lets the last weight rise: min(1/K + t (K−1)/(K T), 1 − (K−1) 0.03/K)."""
    steps, over = 5, 10
    found = np.asarray(annealed_weights(steps, over=over)(step))
    early = np.maximum(1 / steps - step * (1 / steps / over), 0.03 / steps)
    last = np.minimum(1 / steps + step * ((steps - 1) * (1 / steps / over)), 1 - (steps - 1) * 0.03 / steps)
    np.testing.assert_allclose(found, [early] * 4 + [last], rtol=1e-6)


def test_weights_are_of_64_bits_where_numbers_are():
    """They were rounded to 32, so that a loss of 64 bits was right to seven digits."""
    with jax.enable_x64(True):
        found = annealed_weights(3, over=7)(jnp.int32(2))
        early = 1 / 3 - 2 / 21
        np.testing.assert_allclose(found, [early, early, 1 - 2 * early], rtol=1e-15)
    assert annealed_weights(3, over=7)(2).dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.compiling
def test_normalisation_has_a_scale_for_each_step(key):
    """Equal ones are MAML without; where they differ, pass k uses the k-th, and all of them learn."""
    rows = few_shot(tasks=2)
    net = network(backbone=normed(8), head=top(3))
    inner = finetune(net)
    start = net.init(key, rows["support"]["x"][0])
    norm = select("backbone/norm/.*")
    adapt = adapt_to(inner, fixed_rate(0.1), steps=2, per_step=norm)
    objective = meta(adapt, inner)
    params, stats = objective.init(key, rows, start)
    assert {p: a.shape for p, a in flatten(params["per_step"]).items()} == {
        "backbone/norm/bias": (2, 8),
        "backbone/norm/scale": (2, 8),
    }
    assert "norm" not in params["backbone"]
    slow = adapt_to(inner, fixed_rate(0.1), steps=2, adapted=select("head/.*", "backbone/layer/.*"))
    np.testing.assert_allclose(
        total(objective(params, stats, rows, key, 0)[0]),
        total(meta(slow, inner)(*start, rows, key, 0)[0]),
        rtol=1e-6,
    )
    params = jax.tree.map(lambda a: a, params)
    params["per_step"]["backbone"]["norm"]["scale"] = jnp.stack([jnp.full(8, 0.5), jnp.full(8, 2.0)])
    support = {n: v[0] for n, v in rows["support"].items()}
    fast = start_of(params)
    for scale in (0.5, 2.0):
        fast["backbone"]["norm"]["scale"] = jnp.full(8, scale)
        g = jax.jit(jax.grad(lambda p: total(inner(p, stats, support, key, 0)[0])))(fast)
        kept = fast["backbone"]["norm"]
        fast = jax.tree.map(lambda p, g: p - 0.1 * g, fast, g)
        fast["backbone"]["norm"] = kept
    found, _ = adapt(params, stats, support, key)
    for path, leaf in flatten(fast).items():
        np.testing.assert_allclose(flatten(found)[path], leaf, rtol=1e-5, atol=1e-6)
    grads = jax.jit(jax.grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)["per_step"]
    assert all(float(jnp.abs(row).max()) > 0 for leaf in jax.tree.leaves(grads) for row in leaf)


def test_a_longer_inner_loop_uses_the_last_steps_own(key):
    rows = few_shot(tasks=1)
    inner = finetune(network(backbone=normed(8), head=top(3)))
    norm = select("backbone/norm/.*")
    params, stats = adapt_to(inner, fixed_rate(0.1), steps=2, per_step=norm).init(key, {"x": rows["support"]["x"][0]})
    params["per_step"]["backbone"]["norm"]["scale"] = jnp.stack([jnp.full(8, 0.5), jnp.full(8, 2.0)])
    support = {n: v[0] for n, v in rows["support"].items()}
    fast, _ = adapt_to(inner, fixed_rate(0.1), steps=4, per_step=norm)(params, stats, support, key)
    np.testing.assert_array_equal(fast["backbone"]["norm"]["scale"], np.full(8, 2.0))


def test_parameters_without_their_steps_are_refused(key):
    rows = few_shot(tasks=1)
    net = network(backbone=normed(8), head=top(3))
    support = {n: v[0] for n, v in rows["support"].items()}
    adapt = adapt_to(finetune(net), fixed_rate(0.1), steps=2, per_step=select("backbone/norm/.*"))
    with pytest.raises(ValueError, match=r"\['backbone', 'head'\] hold no 'per_step': use .* adapt.init"):
        adapt(*net.init(key, support["x"]), support, key)


def test_the_order_is_annealed_by_phases(key):
    """First order for one step, then second; each phase's update is that of its order alone."""
    rows, theta = quadratic_tasks()
    rows = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), rows)

    def objective(order):
        rule = per_step_rates(0.1, steps=2)
        adapt = adapt_to(quadratic, rule, steps=2, order=order)
        return multi_step(adapt, quadratic, annealed_weights(2, over=10))

    start = objective(2).init(key, rows, model.Variables({"w": jnp.asarray(theta, jnp.float32)}, {}))
    both = make_step([Phase(0, objective(1)), Phase(1, objective(2))], optax.sgd(0.1))
    state, orders = both.init(start, key), []
    for _ in range(2):
        before = state
        state, _ = both.at(int(state.step))(state, rows)
        alone = [make_step(objective(order), optax.sgd(0.1))(before, rows)[0].params["w"] for order in (1, 2)]
        orders.append([bool((state.params["w"] == w).all()) for w in alone])
    assert orders == [[True, False], [False, True]]


def test_bad_options_are_refused(key):
    with pytest.raises(ValueError, match="multi_step needs inner steps"):
        multi_step(adapt_to(quadratic, fixed_rate(0.1), steps=0), quadratic, annealed_weights(1, over=1))
    with pytest.raises(ValueError, match="steps=0 with per_step"):
        adapt_to(quadratic, fixed_rate(0.1), steps=0, per_step=select(".*"))
    with pytest.raises(ValueError, match="over=0"):
        annealed_weights(2, over=0)
    rows, theta = quadratic_tasks()
    objective = multi_step(adapt_to(quadratic, fixed_rate(0.1), steps=3), quadratic, annealed_weights(2, over=5))
    with pytest.raises(ValueError, match=r"weights of shape \(2,\) for the losses 'loss' of 3 inner steps"):
        objective({"w": jnp.asarray(theta, jnp.float32)}, {}, rows, key, 0)


def test_a_judges_term_may_not_take_the_name_of_the_total(key):
    rows, theta = quadratic_tasks()
    adapt, variables = adapt_to(quadratic, fixed_rate(0.1), steps=1), model.Variables({"w": jnp.float32(theta)}, {})

    def named(params, stats, batch, key, step):
        value, aux = quadratic(params, stats, batch, key, step)
        return {"loss": value, "prior": 2.0}, aux

    for objective in (meta(adapt, named), multi_step(adapt, named, annealed_weights(1, over=5))):
        with pytest.raises(ValueError, match="'loss' is the name of the total: call this term"):
            jax.eval_shape(objective.loss, *variables, rows, key, 0)
    with pytest.raises(ValueError, match="'loss' is the name of the total: call this term"):
        over_episodes(adapt, {"named": named}, variables, [rows], metric="prior")
