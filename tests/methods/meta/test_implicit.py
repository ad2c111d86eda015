"""iMAML against its closed form on quadratics, a long unrolled loop, and numpy's solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_shot import few_shot, quadratic, quadratic_tasks, tasks_of
from nets import largest_difference, normed, top

from jtl import ops
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.implicit import conjugate_gradients, implicit
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import meta
from jtl.methods.meta.update_rules import fixed_rate, learned_rate
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.params import select
from jtl.typing import Aux


def test_on_a_quadratic_it_is_the_closed_form(key):
    """φ* = (A + λI)⁻¹ (A b + λ θ), and its slope for θ is λ (A + λI)⁻¹."""
    with jax.enable_x64(True):
        rows, theta = quadratic_tasks()
        strength = 0.8
        adapt = implicit(quadratic, fixed_rate(0.1), steps=1500, strength=strength, solves=4)
        objective = meta(adapt, quadratic)
        tasks = jax.tree.map(jnp.asarray, rows)
        f = jax.jit(jax.value_and_grad(lambda w: total(objective({"w": w}, {}, tasks, key, 0)[0])))
        value, slope = f(jnp.asarray(theta))
        losses, slopes = [], []
        for t in range(3):
            (a, b), (c, d) = ([rows[half][n][t] for n in ("A", "b")] for half in ("support", "query"))
            inverse = np.linalg.inv(a + strength * np.eye(4))
            off = inverse @ (a @ b + strength * theta) - d
            losses.append(0.5 * off @ c @ off)
            slopes.append(strength * inverse @ c @ off)
        np.testing.assert_allclose(value, np.mean(losses), rtol=1e-12)
        np.testing.assert_allclose(slope, np.mean(slopes, 0), rtol=1e-12)


def convex(params, stats, batch, key, step):
    """Logistic regression on features that a slow matrix makes; the key moves nothing but must pass."""
    z = jnp.tanh(batch["x"] @ params["slow"]) @ params["fast"]
    return jnp.logaddexp(0.0, -batch["s"] * z).mean() + 0.0 * jax.random.uniform(key), Aux(stats, {})


def test_gradients_are_those_of_a_long_unrolled_loop(key):
    """For what is adapted and for what is not, 2,000 steps of the regularised problem differentiated through."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        tasks = {
            half: {"x": jnp.asarray(draw.normal(size=(2, 6, 3))), "s": jnp.asarray(np.sign(draw.normal(size=(2, 6))))}
            for half in ("support", "query")
        }
        params = {"fast": jnp.asarray(draw.normal(size=2)), "slow": jnp.asarray(draw.normal(size=(3, 2)))}
        fast = select("fast")
        adapt = implicit(convex, fixed_rate(0.5), steps=2000, strength=0.3, solves=2, adapted=fast)

        def loop(params):
            def one(support, query):
                def regularised(p, stats, batch, key, step):
                    loss, aux = convex(p, stats, batch, key, step)
                    return loss + 0.15 * jnp.square(p["fast"] - params["fast"]).sum(), aux

                end, _ = adapt_to(regularised, fixed_rate(0.5), steps=2000, adapted=fast)(params, {}, support, key)
                return convex(end, {}, query, key, 0)[0]

            return jax.vmap(one)(tasks["support"], tasks["query"]).mean()

        objective = meta(adapt, convex)
        found = jax.jit(jax.value_and_grad(lambda p: total(objective(p, {}, tasks, key, 0)[0])))(params)
        expected = jax.jit(jax.value_and_grad(loop))(params)
        assert largest_difference(found, expected) < 1e-12


def test_a_network_with_statistics_and_a_rule_with_parameters(key):
    """Its inner loop is that of the regularised objective; the rule's own parameters have no gradient."""
    rows = few_shot(tasks=2)
    net = network(backbone=normed(8), head=top(3))
    inner = finetune(net)
    adapt = implicit(inner, learned_rate(0.1), steps=3, strength=1.0, solves=2)
    params, stats = adapt.init(key, tasks_of(rows["support"])[0])
    loss, grads = jax.jit(jax.value_and_grad(lambda p: total(meta(adapt, inner)(p, stats, rows, key, 0)[0])))(params)
    assert np.isfinite(loss)
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads["rule"]))
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["head"]))
    _, after = adapt(params, stats, tasks_of(rows["support"])[0], key)
    assert largest_difference(after, stats) > 1e-3


def test_under_pmap_the_backward_pass_sees_its_own_task(key):
    """BatchNorm in the Hessian is of the task's rows: with those of the other device's task the gradient is another."""
    rows = few_shot(tasks=2)
    inner = finetune(network(backbone=normed(8), head=top(3)))
    adapt = implicit(inner, fixed_rate(0.1), steps=2, strength=1.0, solves=2)
    params, stats = adapt.init(key, tasks_of(rows["support"])[0])

    def gradient(rows):
        return jax.grad(lambda p: total(meta(adapt, inner)(p, stats, rows, key, 0)[0]))(params)

    each = [jax.tree.map(lambda a, t=t: a[t : t + 1], rows) for t in range(2)]
    found = jax.pmap(gradient, axis_name=ops.BATCH_AXIS)(jax.tree.map(lambda *a: np.stack(a), *each))
    for t, one in enumerate(each):
        assert largest_difference(jax.tree.map(lambda a, t=t: a[t], found), jax.jit(gradient)(one)) < 1e-5


def test_conjugate_gradients_solve_and_stay():
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        root, b = draw.normal(size=(5, 5)), draw.normal(size=5)
        a = root @ root.T + np.eye(5)
        for iterations in (5, 50):
            found = conjugate_gradients(lambda v: jnp.asarray(a) @ v, jnp.asarray(b), iterations)
            np.testing.assert_allclose(found, np.linalg.solve(a, b), rtol=1e-9)
        assert (conjugate_gradients(lambda v: v, jnp.zeros(3), 4) == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps=0"), ({"solves": 0}, "solves=0"), ({"strength": 0.0}, "strength=0.0")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        implicit(quadratic, fixed_rate(0.1), **{"steps": 1, "solves": 1, "strength": 1.0, **options})
