"""conv4 against the same network written in torch."""

from inspect import unwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl.model import Variables

FILTERS = 4


def torch_net(torch, pool):
    layers, channels = [], 3
    for _ in range(4):
        layers += [
            torch.nn.Conv2d(channels, FILTERS, 3, stride=1 if pool else 2, padding=1, bias=False),
            torch.nn.BatchNorm2d(FILTERS),
            torch.nn.ReLU(),
            *([torch.nn.MaxPool2d(2)] if pool else []),
        ]
        channels = FILTERS
    return torch.nn.Sequential(*layers).double()


def as_torch_state(v: Variables, per_block: int) -> dict:
    state = {}
    for i in range(4):
        params, stats = v.params[f"stage{i + 1}"], v.stats[f"stage{i + 1}"]["norm"]
        state[f"{i * per_block}.weight"] = np.transpose(params["conv"]["kernel"], (3, 2, 0, 1))
        state[f"{i * per_block + 1}.weight"] = params["norm"]["scale"]
        state[f"{i * per_block + 1}.bias"] = params["norm"]["bias"]
        state[f"{i * per_block + 1}.running_mean"] = stats["mean"]
        state[f"{i * per_block + 1}.running_var"] = stats["var"]
    return {name: np.array(value) for name, value in state.items()}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_is_torchs_forward_gradients_and_statistics(key, downsample, train):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pool, rng = downsample == "pool", np.random.default_rng(0)
    x = rng.normal(size=(6, 28, 28, 3))
    with jax.enable_x64(True):
        net = backbones.conv4(FILTERS, downsample=downsample)
        v = jax.tree.map(
            lambda a: jnp.asarray(rng.uniform(0.2, 1, a.shape) * rng.choice([-1, 1], a.shape)),
            net.init(key, x),
        )
        v = Variables(v.params, jax.tree.map(jnp.abs, v.stats))

        def loss(params):
            features, stats = net.apply(Variables(params, v.stats), x, train=train, key=None)
            return (features["pooled"] ** 2).sum(), (features, stats)

        grads, (features, stats) = jax.jit(jax.grad(loss, has_aux=True))(v.params)
    theirs = torch_net(torch, pool).train(train)
    per_block = 4 if pool else 3
    theirs.load_state_dict({k: torch.tensor(a) for k, a in as_torch_state(v, per_block).items()}, strict=False)
    h = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    for i, layer in enumerate(theirs, 1):
        h = layer(h)
        if i % per_block == 0:
            wanted = h.detach().permute(0, 2, 3, 1)
            np.testing.assert_allclose(features[f"stage{i // per_block}"], wanted, rtol=1e-10, atol=1e-10)
    pooled = h.mean((2, 3))
    (pooled**2).sum().backward()
    np.testing.assert_allclose(features["pooled"], pooled.detach(), rtol=1e-10, atol=1e-10)
    after, named = theirs.state_dict(), dict(theirs.named_parameters())
    for name, value in as_torch_state(Variables(grads, stats), per_block).items():
        wanted = named[name].grad if name in named else after[name]
        np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9, err_msg=name)


def test_patches_and_lax_are_one_network(key):
    x = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    nets = [backbones.conv4(FILTERS, conv=conv) for conv in ("patches", "lax", "auto")]
    v = nets[0].init(key, x)
    outs = [net.apply(v, x, train=True, key=None) for net in nets]
    # Float32 with sums of 36 terms in another order, through four normalisations.
    for other in outs[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), outs[0], other)


def test_kernels_start_as_they_are_told_to(key):
    """Deviations by hand, of He's rule by outputs and LeCun's by inputs, within four of their own deviations."""
    inputs, outputs = 9 * np.array([1, 32]), 9 * np.array([32, 32])
    cases: list[tuple[dict[str, Any], np.ndarray]] = [
        ({}, np.sqrt(2 / outputs)),
        ({"kernel_init": jax.nn.initializers.lecun_normal()}, np.sqrt(1 / inputs)),
    ]
    for options, wanted in cases:
        params = backbones.conv4(32, **options).init(key, np.zeros((1, 28, 28, 1), np.float32)).params
        for stage, deviation in zip(("stage1", "stage2"), wanted, strict=True):
            kernel = np.asarray(params[stage]["conv"]["kernel"])
            assert kernel.std() == pytest.approx(deviation, rel=4 / np.sqrt(2 * kernel.size)), (options, stage)


def test_flatten_keeps_every_position(key):
    x = np.ones((2, 33, 33, 1), np.float32)
    net = backbones.conv4(FILTERS, downsample="pool", flatten=True)
    features, _ = net.apply(net.init(key, x), x, train=False, key=None)
    assert features["last"].shape == (2, 2, 2, FILTERS)
    np.testing.assert_array_equal(features["pooled"], features["last"].reshape(2, -1))


@pytest.mark.parametrize(
    ("options", "x", "words"),
    [
        ({"downsample": "max"}, None, "downsample='max'"),
        ({"conv": "fft"}, None, "conv='fft'"),
        ({"filters": 0}, None, "filters=0"),
        ({"downsample": "pool"}, np.ones((1, 15, 28, 1), np.float32), "15x28.*16x16"),
        ({}, np.ones((1, 28, 28, 1), np.uint8), "uint8"),
        ({}, np.ones((28, 28, 1), np.float32), r"\(28, 28, 1\)"),
    ],
)
def test_bad_input_is_named(key, options, x, words):
    with pytest.raises(ValueError, match=words):
        # Without the tests' own type checks, as a user calls it.
        unwrap(backbones.conv4)(**options).init(key, x)


@pytest.mark.parametrize("conv", ["patches", "lax"])
def test_weights_may_be_numpy_arrays(key, conv):
    """As `jtl.load` gives them."""
    net = backbones.conv4(4, conv=conv)
    x = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    made = net.init(key, x)
    ours = net.apply(jax.tree.map(np.asarray, made), x, train=False)[0]["pooled"]
    np.testing.assert_array_equal(ours, net.apply(made, x, train=False)[0]["pooled"])
