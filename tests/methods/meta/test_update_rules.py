"""Update rules: what they start as, their formula by hand, and the gradient of all their parameters by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import model
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.learned_optimizer import learned_optimizer
from jtl.methods.meta.maml import maml
from jtl.methods.meta.meta_curvature import meta_curvature
from jtl.methods.meta.per_step_rates import per_step_rates
from jtl.methods.meta.update_rules import fixed_rate, from_optax, learned_rate
from jtl.metrics.accumulate import total
from jtl.params import flatten, unflatten
from jtl.typing import Aux

RULES = {
    "learned_rate": learned_rate(0.1),
    "per_step_rates": per_step_rates(0.1, steps=3),
    "meta_curvature": meta_curvature(0.1),
    "learned_optimizer": learned_optimizer(0.1, width=3),
    "sgd": from_optax(optax.sgd(0.1)),
}


def curved(params, stats, batch, key, step):
    """A smooth loss that is not quadratic, of a kernel, a matrix, a vector and a number."""
    w = jnp.tensordot(params["kernel"], params["matrix"], (-1, 0)).sum((0, 1, 2)) + params["vector"]
    return jnp.tanh(w * batch["a"] + params["number"]).sum() + (w**2).mean(), Aux(stats, {})


def made(seed=0):
    draw = np.random.default_rng(seed)
    shapes = {"kernel": (2, 1, 3, 2), "matrix": (2, 3), "vector": (3,), "number": ()}
    params = {name: jnp.asarray(0.5 * draw.normal(size=shape)) for name, shape in shapes.items()}
    tasks = {half: {"a": jnp.asarray(draw.normal(size=(2, 3)))} for half in ("support", "query")}
    return params, tasks


@pytest.mark.parametrize("name", RULES)
def test_every_rule_starts_as_gradient_descent(key, name):
    with jax.enable_x64(True):
        params, tasks = made()
        support = {"a": tasks["support"]["a"][0]}
        plain, _ = adapt_to(curved, fixed_rate(0.1), steps=3)(params, {}, support, key)
        adapt = adapt_to(curved, RULES[name], steps=3)
        start = adapt.init(key, support, model.Variables(params, {}))
        fast, _ = adapt(start.params, {}, support, key)
        for path, leaf in flatten(plain).items():
            np.testing.assert_allclose(flatten(fast)[path], leaf, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["learned_rate", "per_step_rates", "meta_curvature", "learned_optimizer"])
def test_the_meta_gradient_is_that_of_differences(key, name):
    """Along random directions over the start and the rule's parameters, where all of them are away from their start."""
    with jax.enable_x64(True):
        params, tasks = made()
        objective = maml(curved, RULES[name], steps=3)
        start = objective.init(key, tasks, model.Variables(params, {})).params
        draw = np.random.default_rng(1)
        shifted = {path: leaf + 0.1 * draw.normal(size=leaf.shape) for path, leaf in flatten(start).items()}

        @jax.jit
        def f(flat):
            return total(objective(unflatten(flat), {}, tasks, key, 0)[0])

        grads, h = jax.jit(jax.grad(f))(shifted), 1e-5
        assert any(path.startswith("rule/") for path in shifted)
        for only in ("rule/", ""):
            way = {p: draw.normal(size=a.shape) * p.startswith(only) for p, a in shifted.items()}
            slope = f({p: a + h * way[p] for p, a in shifted.items()}) - f(
                {p: a - h * way[p] for p, a in shifted.items()}
            )
            exact = sum((grads[p] * way[p]).sum() for p in way)
            np.testing.assert_allclose(slope / (2 * h), exact, rtol=1e-7)
        assert all(float(jnp.abs(g).max()) > 0 for g in grads.values()), "everything learns"


def test_optax_rule_of_gradient_descent_has_its_meta_gradient(key):
    with jax.enable_x64(True):
        params, tasks = made()
        slopes = []
        for rule in (fixed_rate(0.1), from_optax(optax.sgd(0.1))):
            objective = maml(curved, rule, steps=3)
            start = objective.init(key, tasks, model.Variables(params, {})).params
            slopes.append(jax.jit(jax.grad(lambda p, o=objective: total(o(p, {}, tasks, key, 0)[0])))(start))
        for path, leaf in flatten(slopes[0]).items():
            np.testing.assert_allclose(flatten(slopes[1])[path], leaf, rtol=1e-13, atol=1e-15)
            assert float(jnp.abs(leaf).max()) > 1e-3


def test_rates_are_those_of_the_step_and_the_last_one_stays():
    rule = per_step_rates(0.1, steps=2)
    phi, p, g = {"w": jnp.array([1.0, 10.0])}, {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    memory, found = rule.start(phi, p), []
    for _ in range(3):
        p, memory = rule.step(phi, g, p, memory)
        found.append(float(p["w"][0]))
    assert found == [-1, -11, -21]


def test_curvature_multiplies_every_mode():
    """Against explicit sums over the axes of a convolution's gradient [2, 1, 3, 2]: space 2, in 3, out 2."""
    draw = np.random.default_rng(0)
    g, p = draw.normal(size=(2, 1, 3, 2)), draw.normal(size=(2, 1, 3, 2))
    phi = {"out": draw.normal(size=(2, 2)), "in": draw.normal(size=(3, 3)), "space": draw.normal(size=(2, 2))}
    with jax.enable_x64(True):
        rule = meta_curvature(0.5)
        wide = {name: jnp.asarray(m) for name, m in phi.items()}
        found, _ = rule.step({"w": wide}, {"w": jnp.asarray(g)}, {"w": jnp.asarray(p)}, ())
    expected = np.einsum("sio,sS,iI,oO->SIO", g.reshape(2, 3, 2), phi["space"], phi["in"], phi["out"])
    np.testing.assert_allclose(found["w"], p - 0.5 * expected.reshape(p.shape), rtol=1e-12)


def test_the_learned_optimizer_by_hand_and_at_a_gradient_of_zero():
    """Two steps of one parameter, and a finite derivative where the gradient is 0."""
    with jax.enable_x64(True):
        rule = learned_optimizer(0.5, width=4, momentum=0.6)
        phi = rule.init(jax.random.key(0), {"w": jnp.zeros(1)})
        phi = {**phi, "out": jnp.arange(4.0)}
        p, memory = {"w": jnp.ones(1)}, rule.start(phi, {"w": jnp.ones(1)})
        kernel, expected, m = np.asarray(phi["hidden"]["kernel"]), 1.0, 0.0
        for g in (0.02, -3.0):
            p, memory = rule.step(phi, {"w": jnp.full(1, g)}, p, memory)
            m = 0.6 * m + 0.4 * g
            seen = np.arcsinh(np.array([g, 100 * g, 10000 * g, m, 100 * m, 10000 * m]))
            expected -= 0.5 * (g + np.tanh(seen @ kernel) @ np.arange(4.0))
        np.testing.assert_allclose(p["w"], expected, rtol=1e-12)
        zero = {"w": jnp.zeros(1)}
        slope = jax.jit(jax.grad(lambda g: rule.step(phi, {"w": g}, zero, zero)[0]["w"].sum()))(jnp.zeros(1))
        assert np.isfinite(slope).all()


def test_two_keys_draw_two_optimizers():
    a, b = (learned_optimizer(0.1).init(jax.random.key(i), {"w": jnp.zeros(2)})["hidden"]["kernel"] for i in range(2))
    assert float(jnp.abs(a - b).max()) > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: per_step_rates(0.1, steps=0), "steps=0"),
        (lambda: learned_optimizer(0.1, width=0), "width=0"),
        (lambda: learned_optimizer(0.1, momentum=1.0), "momentum=1.0"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
