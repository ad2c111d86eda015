"""Pooling against torch's, where values are equal too, and its two forms against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.pooling import max_pool, mean_around

# side, stride, border; height, width
WINDOWS = {"halves": (2, 2, 0, 7, 6), "overlap": (3, 2, 0, 9, 8), "bordered": (3, 2, 1, 8, 11)}


def maps(height, width):
    """Few different values: most windows hold their largest more than once."""
    return np.random.default_rng(0).integers(-2, 3, (2, height, width, 3)).astype(np.float64)


def to_torch(x):
    import torch

    return torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)


def check(ours, theirs, x):
    """Values and the gradient of a weighed sum, exactly but for a last place."""
    with jax.enable_x64(True):
        y, pull = jax.vjp(ours, jnp.asarray(x))
        weights = np.random.default_rng(1).normal(size=y.shape)
        (grads,) = pull(jnp.asarray(weights))
    given = to_torch(x)
    wanted = theirs(given)
    (wanted * to_torch(weights)).sum().backward()
    np.testing.assert_allclose(y, wanted.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(grads, given.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS)
def test_the_largest_is_torchs_and_the_first_of_equals_learns(case):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    side, stride, border, *size = case
    check(
        lambda x: max_pool(x, side, stride, border),
        lambda x: torch.nn.functional.max_pool2d(x, side, stride, border),
        maps(*size),
    )


def test_means_around_are_torchs():
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    check(mean_around, lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1), maps(5, 8))


def test_elsewhere_the_same_is_laxs(monkeypatch):
    """What GPUs and TPUs run: values and gradients where no two are equal."""
    x = jax.random.normal(jax.random.key(0), (2, 9, 10, 3))

    def run(x):
        return jnp.sin(max_pool(x, 3, border=1)).sum()

    here = jax.value_and_grad(run)(x)
    monkeypatch.setattr("jtl.nn.pooling.by_platform", lambda x, cpu, default: default(x))
    for ours, theirs in zip(here, jax.value_and_grad(run)(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_on_a_cpu_no_window_is_searched_twice():
    """The gradient of XLA's own form looks for each largest value's place again, and scatters."""
    x = jnp.ones((2, 9, 9, 3))
    step = jax.jit(jax.grad(lambda x: max_pool(x, 3, border=1).sum()))
    program = step.lower(x).compile().as_text()
    assert "reduce-window" not in program
    assert "scatter" not in program


def test_nan_is_the_largest_and_minus_infinity_the_least():
    x = jnp.full((1, 4, 4, 1), -jnp.inf).at[0, 3, 3, 0].set(jnp.nan)
    y = max_pool(x, 3, border=1)[0, :, :, 0]
    assert jnp.isnan(y[1, 1])
    assert (y[0] == -jnp.inf).all()


def test_it_can_be_differentiated_twice():
    """The second derivative of a function of the largest values: that of each alone."""
    x = jax.random.permutation(jax.random.key(1), jnp.arange(16.0)).reshape(1, 4, 4, 1)
    found = jax.jit(jax.hessian(lambda x: (max_pool(x) ** 3).sum()))(x).reshape(16, 16)
    flat = x.reshape(-1)
    chosen = jnp.isin(flat, max_pool(x).reshape(-1))
    np.testing.assert_allclose(found, jnp.diag(jnp.where(chosen, 6 * flat, 0)), rtol=1e-6)
