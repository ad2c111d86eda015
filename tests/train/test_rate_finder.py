"""The range test on a quadratic, whose steps are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.model import Variables
from jtl.train.rate_finder import lr_find
from jtl.typing import Aux

CURVATURE = 4.0


def quadratic(params, stats, batch, key, step):
    del key, step
    return 0.5 * CURVATURE * params["w"] ** 2 + 0.0 * batch["x"].sum(), Aux(stats)


def found(objective=quadratic, start=1.0, **options):
    options = {"low": 1e-3, "high": 10.0, "steps": 60, "optimizer": optax.sgd, **options}
    data = [{"x": np.zeros(2, np.float32)}] * 60
    return lr_find(objective, Variables({"w": jnp.asarray(start)}, {}), data, key=jax.random.key(0), **options)


def test_losses_are_those_of_gradient_descent_with_a_rising_rate():
    seen, w, losses, means = found(), 1.0, [], []
    rates = np.geomspace(1e-3, 10.0, 60)
    for rate in rates[: len(seen.rates)]:
        losses.append(0.5 * CURVATURE * w**2)
        w *= 1 - rate * CURVATURE
    weights = 0.9 ** np.arange(len(losses))
    means = [np.average(losses[: t + 1], weights=weights[: t + 1][::-1]) for t in range(len(losses))]
    np.testing.assert_allclose(seen.rates, rates[: len(losses)], rtol=1e-6)
    np.testing.assert_allclose(seen.losses, losses, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(seen.smoothed, means, rtol=1e-3, atol=1e-7)
    assert len(seen.rates) < 60, "it diverges above 2 / curvature, and the test ends"
    assert seen.rates[-1] > 2 / CURVATURE
    assert seen.smoothed[-1] > 4 * seen.smoothed.min() > seen.smoothed[-2]
    slopes = np.gradient(means, np.log(rates[: len(means)]))[: np.argmin(means) + 1]
    assert seen.steepest == pytest.approx(rates[np.argmin(slopes)], rel=1e-6)
    assert seen.tenth == pytest.approx(rates[np.argmin(means)] / 10, rel=1e-6)


def test_a_start_that_cannot_fall_has_no_suggestion():
    seen = found(start=0.0)
    assert seen.steepest is None
    assert seen.tenth is None
    assert (seen.losses == 0).all()


def test_a_loss_that_breaks_ends_the_test_and_the_variables_stay():
    variables = Variables({"w": jnp.asarray(1.0)}, {})

    def breaks(params, stats, batch, key, step):
        loss, aux = quadratic(params, stats, batch, key, step)
        return jnp.where(step < 7, loss, jnp.nan), aux

    data = [{"x": np.zeros(2, np.float32)}] * 60
    seen = lr_find(breaks, variables, data, key=jax.random.key(0), low=1e-3, optimizer=optax.sgd)
    assert len(seen.losses) == 7
    assert float(variables.params["w"]) == 1.0
    with pytest.raises(ValueError, match="the variables as they are is not finite"):
        found(start=float("nan"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"low": 0.0}, "low=0.0"), ({"low": 1.0, "high": 0.1}, "high=0.1"), ({"steps": 1}, "steps=1: give at least 2")],
)
def test_what_cannot_be_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        found(**options)
