"""The range test on a quadratic, whose steps are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jtl.backbones import mlp
from jtl.data import arrays
from jtl.heads import linear
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.train.rate_finder import lr_find, suggested
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
    means = [np.mean(losses[max(t - 5, 0) : t + 6]) for t in range(len(losses))]
    np.testing.assert_allclose(seen.rates, rates[: len(losses)], rtol=1e-6)
    np.testing.assert_allclose(seen.losses, losses, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(seen.smoothed, means, rtol=1e-3, atol=1e-7)
    assert len(seen.rates) < 60, "it diverges above 2 / curvature, and the test ends"
    assert seen.rates[-1] > 2 / CURVATURE
    assert means[-6] > 4 * min(means) > means[-7], "the newest mean of 11 losses"
    lowest = np.argmin(means)
    falls = [means[max(t - 5, 5)] - means[min(t + 5, lowest)] for t in range(5, lowest + 1)]
    assert seen.steepest == pytest.approx(rates[5 + np.argmax(falls)], rel=1e-6)
    assert seen.tenth == pytest.approx(rates[lowest] / 10, rel=1e-6)
    assert seen.note is None


RATES = np.geomspace(1e-6, 1, 80)


def curve(low, noise=0.0, fall=1.0):
    """A loss that falls around a hundredth of the rate `low` and is squared in the logarithm above it."""
    logs = np.log10(RATES / low)
    losses = 3 - fall / (1 + np.exp(-3 * (logs + 2))) + np.maximum(logs, 0) ** 2
    return losses + noise * np.random.default_rng(0).standard_normal(80)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_curve_of_known_form_suggests_its_steepest_and_its_lowest_rate(noise):
    seen = suggested(RATES, curve(1e-1, noise), 1.0)
    assert seen.steepest == pytest.approx(1e-3, rel=0.6)
    assert seen.tenth == pytest.approx(5e-3, rel=0.9)  # the floor is flat from 1e-2 to 1e-1


@pytest.mark.parametrize(
    ("losses", "note"),
    [
        (curve(10.0), "still falls at the highest rate, 1; try higher ones"),
        (curve(1e-1, fall=0.0), "does not fall by more than its noise"),
        (curve(1e-1, noise=0.5, fall=0.1), "does not fall by more than its noise; try larger batches"),
        (3 + np.arange(80.0), "does not fall"),
        (np.array([9.0, 1.0, 0.1]), "ended after 3 steps"),
    ],
)
def test_a_curve_without_a_valley_suggests_nothing_and_says_why(losses, note):
    seen = suggested(RATES[: len(losses)], losses, 1.0)
    assert seen.steepest is None
    assert seen.tenth is None
    assert note in seen.note


def test_draws_of_small_batches_agree_on_a_rate():
    """Noise of the first steps is no slope: by the mean that lags behind the rate, one draw in six took 1e-6."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    net = network(backbone=mlp((16,)), head=linear(10))
    found = []
    for seed in range(4):
        data = arrays(x, y, batch_size=16, seed=seed)
        seen = lr_find(finetune(net), net.init(jax.random.key(seed), x[:1]), data, key=jax.random.key(seed))
        found.append((seen.steepest, seen.tenth))
    for rates in zip(*found, strict=True):
        assert max(rates) < 3 * min(rates), found
        assert min(rates) > 1e-3


def test_a_start_that_cannot_fall_has_no_suggestion():
    seen = found(start=0.0)
    assert seen.steepest is None
    assert seen.tenth is None
    assert "does not fall" in str(seen.note)
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
