"""BatchNorm against torch's, and its own law: every way of spreading a batch gives the same numbers."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jtl import ops
from jtl.model import Variables, from_linen
from jtl.nn.batch_norm import BatchNorm, _by_batch

CHANNELS = 3


def randomised(variables: Variables, seed: int = 0) -> Variables:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.5, 2, a.shape), a.dtype), variables)


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(1).normal(2, 3, (16, 3, 2, CHANNELS)), jnp.float32)


def model(**options):
    return from_linen(BatchNorm(**options))


@pytest.mark.parametrize("momentum", [0.1, 1.0])
@pytest.mark.parametrize("train", [False, True])
def test_is_torchs_in_double_precision(key, x, momentum, train):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    theirs = torch.nn.BatchNorm2d(CHANNELS, momentum=momentum, eps=1e-3).double().train(train)
    with jax.enable_x64(True):
        norm = model(momentum=momentum, eps=1e-3)
        v = jax.tree.map(lambda a: a.astype(jnp.float64), randomised(norm.init(key, x)))
        for name, value in (
            ("weight", v.params["scale"]),
            ("bias", v.params["bias"]),
            ("running_mean", v.stats["mean"]),
            ("running_var", v.stats["var"]),
        ):
            getattr(theirs, name).data = torch.tensor(np.asarray(value))

        def weighed(params, x):
            y, stats = norm.apply(Variables(params, v.stats), x, train=train, key=None)
            return (y**2 * jnp.arange(y.size, dtype=y.dtype).reshape(y.shape)).sum(), (y, stats)

        x64 = jnp.asarray(x, jnp.float64)
        grads, (y, stats) = jax.grad(weighed, (0, 1), has_aux=True)(v.params, x64)
    z = torch.tensor(np.asarray(x64).transpose(0, 3, 1, 2).copy(), requires_grad=True)
    out = theirs(z).permute(0, 2, 3, 1)
    (out**2 * torch.arange(out.numel()).reshape(out.shape)).sum().backward()

    def same(a, b):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-10, atol=1e-10)

    same(y, out)
    same(stats["mean"], theirs.running_mean)
    same(stats["var"], theirs.running_var)
    same(grads[0]["scale"], theirs.weight.grad)
    same(grads[0]["bias"], theirs.bias.grad)
    same(grads[1], z.grad.permute(0, 2, 3, 1))


def test_momentum_1_evaluates_by_the_last_batch(key, x):
    """After one pass in training mode, evaluation differs from it by the unbiased variance alone."""
    norm = model(momentum=1.0)
    v = randomised(norm.init(key, x))
    trained, stats = norm.apply(v, x, train=True, key=None)
    n = x.size // CHANNELS
    flat = np.asarray(x, np.float64).reshape(-1, CHANNELS)
    np.testing.assert_allclose(stats["mean"], flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], flat.var(0, ddof=1), rtol=1e-5)
    evaluated, _ = norm.apply(Variables(v.params, stats), x, train=False, key=None)
    bias = np.asarray(v.params["bias"])
    np.testing.assert_allclose(
        evaluated - bias.reshape(1, 1, 1, -1),
        (trained - bias.reshape(1, 1, 1, -1)) * np.sqrt((n - 1) / n),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_large_mean_costs_no_digits(key):
    """Mean 1000, deviation 0.01: E[x²] − E[x]² would have no correct digit in float32."""
    noise = np.random.default_rng(0).normal(size=(4096, 1))
    x = jnp.asarray(1000 + 0.01 * noise, jnp.float32)
    norm = model(momentum=1.0)
    _, stats = norm.apply(norm.init(key, x), x, train=True, key=None)
    # The mean is rounded to half a unit in its last place, 3e-5, so the variance of 1e-4 is off by 1e-9.
    np.testing.assert_allclose(stats["var"], np.asarray(x, np.float64).var(0, ddof=1), rtol=1e-3)


def test_derivatives_of_every_order_are_those_of_the_formula(key):
    """Forward, backward and backward of backward, in float64, against what jax derives from the plain formula."""
    eps = 1e-3

    def plain(x, scale, bias):
        mean = x.mean((0, 1))
        var = ((x - mean.reshape(1, 1, -1)) ** 2).mean((0, 1))
        rate = (scale / jnp.sqrt(var + eps)).reshape(1, 1, -1)
        return (x - mean.reshape(1, 1, -1)) * rate + bias.reshape(1, 1, -1), mean, var

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        given = tuple(jnp.asarray(rng.normal(1, 2, shape)) for shape in ((4, 3, 2), (2,), (2,)))
        along = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in given)

        def ours(*args):
            return _by_batch(*args, eps, None)

        for out, wanted in zip(jax.jvp(ours, given, along), jax.jvp(plain, given, along), strict=True):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), out, wanted)

        def curved(f):
            return lambda *args: sum(jnp.sin((i + 1.5) * out).sum() for i, out in enumerate(f(*args)))

        def second(f):
            """The gradient of a function of the gradient, as MAML takes it."""
            inner = jax.grad(curved(f), (0, 1, 2))
            return jax.grad(lambda *args: sum((g * jnp.cos(g)).sum() for g in inner(*args)), (0, 1, 2))

        for derived in (lambda f: jax.grad(curved(f), (0, 1, 2)), second):
            found, expected = derived(ours)(*given), derived(plain)(*given)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_the_gradient_sums_over_the_batch_twice():
    """Once g and once g (x − μ), beside the two sums of the statistics: what jax derives has more."""
    x, vector = jnp.ones((4, 8, 8, 16)), jnp.ones(16)

    def backward(x, g, scale, bias):
        return jax.vjp(lambda *args: _by_batch(*args, 1e-5, None)[0], x, scale, bias)[1](g)

    program = jax.jit(backward).lower(x, x, vector, vector).compile().as_text()
    assert len(re.findall(r"f32\[16\]\S* reduce\(", program)) == 4


def test_statistics_stay_wide_in_half_precision(key, x):
    norm = model()
    v = norm.init(key, x)
    low = Variables(jax.tree.map(lambda a: a.astype(jnp.bfloat16), v.params), v.stats)
    y, stats = norm.apply(low, x, train=True, key=None)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {np.dtype(np.float32)}
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64).reshape(-1, CHANNELS)
    np.testing.assert_allclose(stats["mean"], 0.1 * rounded.mean(0), rtol=1e-5)


def test_initialising_leaves_the_statistics_alone(key, x):
    v = model().init(key, x)
    np.testing.assert_array_equal(v.stats["mean"], np.zeros(CHANNELS))
    np.testing.assert_array_equal(v.stats["var"], np.ones(CHANNELS))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(BatchNorm(name="norm1")(nn.Dense(4, name="dense1")(x), train))
        return BatchNorm(name="norm2")(nn.Dense(4, name="dense2")(x), train)


def test_one_device_eight_and_pmap_agree(key):
    """Outputs, statistics and gradients through the statistics: sums in another order, so to 1e-5."""
    net = from_linen(Net())
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(1, 2, (32, n)), jnp.float32) for n in (5, 4))
    v = randomised(net.init(key, x))

    def loss(params, stats, x, weights):
        y, stats = net.apply(Variables(params, stats), x, train=True, key=None)
        return (y * weights).sum(), (y, stats)

    def everything(v, x, weights):
        grads, (y, stats) = jax.grad(loss, has_aux=True)(v.params, v.stats, x, weights)
        return y, stats, grads

    one = jax.jit(everything)(v, x, weights)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    on_mesh = jax.jit(everything)(
        jax.device_put(v, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(x, rows),
        jax.device_put(weights, rows),
    )
    assert on_mesh[0].sharding.is_equivalent_to(rows, 2)

    def mapped(v, x, weights):
        y, stats, grads = everything(v, x, weights)
        return y, stats, jax.lax.psum(grads, ops.BATCH_AXIS)

    parts = (a.reshape(8, 4, -1) for a in (x, weights))
    y, stats, grads = jax.pmap(mapped, axis_name=ops.BATCH_AXIS, in_axes=(None, 0, 0))(v, *parts)
    for tree in (stats, grads):
        jax.tree.map(lambda a: np.testing.assert_array_equal(a, np.broadcast_to(a[:1], a.shape)), tree)
    on_pmap = (np.asarray(y).reshape(32, -1), *jax.tree.map(lambda a: np.asarray(a)[0], (stats, grads)))
    for other in (on_mesh, on_pmap):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)
