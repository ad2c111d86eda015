"""SSF on a small ViT, and on a convolution and a normalisation: against the merged network and NumPy."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from small_vit import base, randomised, run

from jtl import peft
from jtl.model import from_linen
from jtl.params import flatten

ADAPTER = peft.ssf(("embed", r"block\d/norm1", r"block\d/attention/(query|out)", "norm"))


def test_starts_as_the_base_and_merges():
    net, variables = base()
    adapted, more = peft.attach(net, variables, ADAPTER, jax.random.key(1))
    np.testing.assert_array_equal(run(adapted, more), run(net, variables))
    changed = randomised(more)
    found = run(adapted, changed)
    merged = peft.merge(changed, ADAPTER)
    assert flatten(merged.params).keys() == flatten(variables.params).keys()
    np.testing.assert_allclose(run(net, merged), found, rtol=0, atol=1e-4)
    assert np.abs(found - run(net, variables)).max() > 1e-2


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3), use_bias=False, name="conv")(x))
        return {"pooled": nn.LayerNorm(name="norm", epsilon=1e-3)(x.mean((1, 2)))}


def test_is_the_formula_at_modules_without_a_bias_too():
    """A normalisation's own formula in float64, and a convolution's by linearity: kernel γ, and β before the relu."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 6, 6, 3)).astype(np.float32)
    net, adapter = from_linen(Body()), peft.ssf(("conv", "norm"))
    net, variables = peft.attach(net, net.init(jax.random.key(0), x), adapter, jax.random.key(1))
    drawn = jax.tree.map(lambda a: draw.normal(size=a.shape).astype(np.float32), variables.params)
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(drawn).items()}
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    y = np.einsum("nhwcij,ijco->nhwo", windows, flat["conv/kernel"])
    y = np.maximum(y * flat["adapter/conv/gamma"] + flat["adapter/conv/beta"], 0).mean((1, 2))
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-3)
    expected = (y * flat["norm/scale"] + flat["norm/bias"]) * flat["adapter/norm/gamma"] + flat["adapter/norm/beta"]
    variables = variables._replace(params=drawn)
    np.testing.assert_allclose(net.apply(variables, x, train=False)[0]["pooled"], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="'conv' has no bias"):
        peft.merge(variables, adapter)
