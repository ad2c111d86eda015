import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alignment_references import domains
from scipy.optimize import linear_sum_assignment

from jtl.methods.adapt.jdot import deep_jdot, sinkhorn
from jtl.methods.views import View

KEY = jax.random.key(0)


def scaled(cost, epsilon, iterations=3000):
    """Sinkhorn in its first form, by the matrix exp(−C/ε), and the regularised minimum."""
    n, m = cost.shape
    k, u, v = np.exp(-cost / epsilon), np.ones(n), np.ones(m)
    for _ in range(iterations):
        u = 1 / n / (k @ v)
        v = 1 / m / (k.T @ u)
    plan = u[:, None] * k * v[None]
    return plan, (plan * cost).sum() + epsilon * (plan * (np.log(plan) - 1)).sum()


def costs(seed=0, shape=(7, 9)):
    return np.random.default_rng(seed).random(shape)


def test_the_plan_is_that_of_the_scaled_kernel_on_the_rows_kept():
    cost, ms, mt = costs(), np.arange(7) % 4 != 2, np.arange(9) % 4 != 1
    part = cost[np.ix_(ms, mt)]
    wanted, _ = scaled(part, 0.2 * part.mean())
    cost[~ms], cost[:, ~mt] = np.nan, np.nan
    plan, error = jax.jit(lambda c: sinkhorn(c, ms, mt, regularisation=0.2, iterations=300))(cost)
    np.testing.assert_allclose(np.asarray(plan)[np.ix_(ms, mt)], wanted, atol=1e-6)
    assert np.asarray(plan).sum() == pytest.approx(1, abs=1e-5)
    assert float(error) < 1e-5


def test_a_small_regularisation_gives_the_best_assignment():
    cost = costs(3, (8, 8))
    plan, error = sinkhorn(cost, regularisation=0.01, iterations=2000)
    np.testing.assert_allclose(np.asarray(plan).argmax(1), linear_sum_assignment(cost)[1])
    assert float(error) < 1e-2
    assert np.isfinite(sinkhorn(cost, regularisation=1e-4)[0]).all()


def test_a_plan_that_has_not_converged_says_so():
    assert float(sinkhorn(costs(), regularisation=0.01, iterations=1)[1]) > 0.1


def test_value_and_gradient_are_those_of_the_regularised_minimum():
    fs, ft, ms, mt = domains(seed=1)
    _, z, _, _ = domains(seed=2, width=3)
    y = np.array([0, 1, 2, 2, 1, -1, 0])
    kept = ms & (y >= 0)

    def cost(fs, ft, z):
        logp = z - np.log(np.exp(z).sum(1, keepdims=True))
        return 0.3 * ((fs[kept][:, None] - ft[mt][None]) ** 2).sum(2) - 0.7 * logp[mt][:, y[kept]].T

    epsilon = 0.5 * cost(fs, ft, z).mean()
    alignment = deep_jdot(2.0, feature_cost=0.3, label_cost=0.7, regularisation=0.5, iterations=500)
    with jax.enable_x64(True):

        def ours(fs, ft, z):
            views = {
                "source": View({"pooled": fs}, None, None, jnp.asarray(y), ms, {}),
                "target": View({"pooled": ft}, z, None, None, mt, {}),
            }
            terms, aux = alignment({}, {}, views, KEY, 0)
            return terms["deep_jdot"].value, aux.metrics["deep_jdot_plan_error"].value

        given = [jnp.asarray(a) for a in (fs, ft, z)]
        (value, error), gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2), has_aux=True))(*given)
        value, error = float(value), float(error)
    plan, _ = scaled(cost(fs, ft, z), epsilon)
    assert error < 1e-8
    np.testing.assert_allclose(value, 2 * (plan * cost(fs, ft, z)).sum(), rtol=1e-7)
    draw = np.random.default_rng(0)
    for i, a in enumerate((fs, ft, z)):
        direction = draw.normal(size=a.shape)
        up, down = (
            scaled(cost(*(b + s * 1e-5 * direction if j == i else b for j, b in enumerate((fs, ft, z)))), epsilon)[1]
            for s in (1, -1)
        )
        assert np.isfinite(gradients[i]).all()
        along = (np.asarray(gradients[i]) * np.where(np.isnan(a), 0, direction)).sum()
        np.testing.assert_allclose(along, 2 * (up - down) / 2e-5, rtol=1e-5)


def test_bad_input_raises():
    for alpha, beta in ((-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match=f"feature_cost={alpha}, label_cost={beta}"):
            deep_jdot(feature_cost=alpha, label_cost=beta)
    with pytest.raises(ValueError, match=r"regularisation=0\.0, iterations=100"):
        deep_jdot(feature_cost=1.0, label_cost=1.0, regularisation=0.0)
    views = {
        n: View({"pooled": jnp.ones((2, 2))}, jnp.ones((2, 2)), None, None, None, {}) for n in ("source", "target")
    }
    with pytest.raises(ValueError, match=r"the view 'source' has .*give integers"):
        deep_jdot(feature_cost=1.0, label_cost=1.0)({}, {}, views, KEY, 0)
