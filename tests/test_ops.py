import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import ops


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_gradient_reversal_is_identity_forward_and_minus_lambda_backward(key, weight):
    x, g = jax.random.normal(key, (2, 5, 3))
    y, pull = jax.vjp(lambda x: ops.reverse_gradient(x, weight), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pull(g)[0], -jnp.float32(weight) * g)


def test_gradient_reversal_keeps_the_dtype_and_traces_its_weight(key):
    x = jax.random.normal(key, (4,), jnp.bfloat16)
    slope = jax.jit(jax.grad(lambda x, w: ops.reverse_gradient(x, w).astype(jnp.float32).sum()))
    found = slope(x, jnp.float32(0.5))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.full(4, -0.5, jnp.bfloat16))


def test_the_batch_axis_is_known_under_pmap_alone():
    assert ops.batch_axis() is None
    assert jax.jit(lambda x: x if ops.batch_axis() is None else -x)(1.0) == 1.0
    x = jnp.arange(8.0)
    mapped = jax.pmap(lambda x: x if ops.batch_axis() is None else -x, axis_name=ops.BATCH_AXIS)
    np.testing.assert_array_equal(mapped(x), -x)


def test_gather_and_sum_see_all_devices():
    x = jnp.arange(16.0).reshape(8, 2)

    def f(x):
        return ops.gather(x), ops.batch_sum(x)

    rows, total = jax.pmap(f, axis_name=ops.BATCH_AXIS)(x)
    for device in range(8):
        np.testing.assert_array_equal(rows[device], np.arange(16.0))
        np.testing.assert_array_equal(total[device], x.sum(0))
    for alone, same in zip(f(x), (x, x), strict=True):
        np.testing.assert_array_equal(alone, same)


def test_computed_once_is_the_identity_to_every_order(key):
    x, g = jax.random.normal(key, (2, 7))
    y, pull = jax.vjp(ops.computed_once, x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pull(g)[0], g)
    twice = jax.jit(jax.hessian(lambda x: (ops.computed_once(x) ** 3).sum()))(x)
    np.testing.assert_allclose(twice, jnp.diag(6 * x), rtol=1e-6)
    half = jax.jit(ops.computed_once)(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_computed_once_grows_with_the_depth_and_not_its_square(steps):
    """In loops too, where XLA would divide by a scalar of the loop outside it, and fuse the product that is left."""

    def additions(depth, once):
        def net(w, x):
            for i in range(depth):
                x = once(x + jnp.tanh(x @ w[i]))
            return x.sum()

        def outer(w, x):
            fast = w - jax.grad(net)(w, x)
            if steps:
                fast, _ = jax.lax.scan(lambda fast, _: (fast - jax.grad(net)(fast, x), None), w, length=steps)
            return net(fast, x)

        program = jax.jit(jax.grad(outer)).lower(jnp.ones((depth, 4, 4)), jnp.ones((3, 4))).compile().as_text()
        return len(re.findall(r"f32\[3,4\]\S* add\(", program))

    four, six, eight = (additions(depth, ops.computed_once) for depth in (4, 6, 8))
    assert eight - six == six - four
    four, six, eight = (additions(depth, lambda x: x) for depth in (4, 6, 8))
    assert eight - six > six - four, "XLA stores sums by itself now: computed_once is needed no more"


def test_row_major_is_the_identity_to_every_order(monkeypatch, key):
    """As where CPUs are not the default: eagerly, compiled, mapped, forwards and backwards, for every order of axes."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, along = jax.random.normal(key, (2, 8, 3, 4))
    np.testing.assert_array_equal(ops.row_major(x), x)
    for axis in (0, 1, 2):
        mapped = jax.vmap(ops.row_major, axis, axis)
        for run in (mapped, jax.jit(mapped)):
            y, slope = jax.jvp(run, (x,), (along,))
            _, back = jax.vjp(run, x)
            np.testing.assert_array_equal(y, x)
            np.testing.assert_array_equal(slope, along)
            np.testing.assert_array_equal(back(along)[0], along)
    np.testing.assert_array_equal(jax.pmap(jax.grad(lambda x: (ops.row_major(x) ** 2).sum()))(x), 2 * x)


@pytest.mark.parametrize(("platform", "laid_out"), [("cpu", 0), ("cuda", 2), ("tpu", 2)])
def test_row_major_is_said_to_xla_but_on_a_cpu(platform, laid_out):
    """Of the value and of its cotangent: the last axis is the minor one."""
    slope = jax.jit(jax.grad(lambda x: (ops.row_major(x) ** 2).sum()))
    text = slope.trace(jnp.zeros((2, 3, 4))).lower(lowering_platforms=(platform,)).as_text()
    calls = [line for line in text.splitlines() if "custom_call @LayoutConstraint" in line]
    assert len(calls) == laid_out
    assert all("result_layouts = [dense<[2, 1, 0]>" in line for line in calls), calls


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_mean_of_tokens_in_half_precision_is_rounded_once(dtype):
    """Sums of these are beyond float16, and beyond the whole numbers of bfloat16."""
    x = jnp.asarray(np.random.default_rng(0).normal(200, 20, (2, 387, 5)), dtype)
    mask = np.arange(387)[None] < np.array([[387], [5]])
    wanted = [np.asarray(row, np.float64)[m].mean(0) for row, m in zip(x, mask, strict=True)]
    found = ops.mean_of_tokens(x, jnp.asarray(mask))
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, jnp.asarray(np.array(wanted, np.float32)).astype(dtype))
