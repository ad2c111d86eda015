"""Bottleneck adapters on a small ViT: against layers of torch's kind written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vit import base, randomised, run

from jtl import peft
from jtl.model import from_linen
from jtl.params import flatten

HOULSBY = peft.bottleneck((r"block\d/(attention|mlp)",), 16, 4)
ADAPTFORMER = peft.bottleneck((r"block\d/mlp",), 16, 4, parallel=True, scale=0.1)


@pytest.mark.parametrize("adapter", [HOULSBY, ADAPTFORMER], ids=["after", "beside"])
def test_starts_as_the_base_and_changes_it(adapter):
    net, variables = base()
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    np.testing.assert_array_equal(run(adapted, more), run(net, variables))
    assert np.abs(run(adapted, randomised(more)) - run(net, variables)).max() > 1e-2
    with pytest.raises(ValueError, match="no module's own parameters"):
        peft.merge(more, adapter)


class Inner(nn.Module):
    """A module without a kernel of its own."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(5, name="dense")(x))


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return {"pooled": Inner(name="inner")(x) * 2}


@pytest.mark.parametrize("parallel", [False, True])
def test_is_the_formula(parallel):
    """`y + s (relu(h D + c) U + e)` in float64, between a module's tanh and what comes next."""
    net, draw = from_linen(Body()), np.random.default_rng(0)
    x = draw.normal(size=(3, 5)).astype(np.float32)
    adapter = peft.bottleneck(("inner",), 5, 2, parallel=parallel, scale=0.7)
    net, variables = peft.attach(net, net.init(jax.random.key(0), x), adapter, jax.random.key(1))
    assert {path.rpartition("/")[0] for path in flatten(variables.params["adapter"])} == {"inner"}
    variables = variables._replace(
        params=jax.tree.map(lambda a: draw.normal(size=a.shape).astype("f"), variables.params)
    )
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(variables.params).items()}
    d, c, u, e = (flat[f"adapter/inner/{n}"] for n in ("reduce_kernel", "reduce_bias", "expand_kernel", "expand_bias"))
    y = np.tanh(x @ flat["inner/dense/kernel"] + flat["inner/dense/bias"])
    expected = 2 * (y + 0.7 * (np.maximum((x if parallel else y) @ d + c, 0) @ u + e))
    found = net.apply(variables, x, train=False)[0]["pooled"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_beside_lora_inside_the_same_module():
    """An adapter of a module and one of a layer in it keep apart."""
    net, variables = base()
    net, variables = peft.attach(net, variables, HOULSBY, jax.random.key(1))
    lora = peft.lora(2, (r"block\d/mlp/(up|down)",))
    net, variables = peft.attach(net, variables, lora, jax.random.key(2))
    assert "8 adapted modules" in peft.summary(variables)
    changed = randomised(variables)
    found = run(net, changed)
    merged = peft.merge(changed, lora)
    again = peft.attach(base()[0], base()[1], HOULSBY, jax.random.key(1))[0]
    np.testing.assert_allclose(run(again, merged), found, rtol=0, atol=1e-4)


def test_what_would_be_wrong_raises():
    net, variables = base()
    with pytest.raises(ValueError, match=r"'block1/mlp' gives \(4, 5, 16\); width=8"):
        run(*peft.attach(net, variables, peft.bottleneck((r"block\d/mlp",), 8, 4), jax.random.key(0)))
    up = peft.bottleneck(("block1/mlp/up",), 32, 4, parallel=True)
    with pytest.raises(ValueError, match=r"'block1/mlp/up' is given \(4, 5, 16\); width=32"):
        run(*peft.attach(net, variables, up, jax.random.key(0)))
    with pytest.raises(ValueError, match="inner=0"):
        peft.bottleneck((".*",), 8, 0)
    with pytest.raises(ValueError, match="scale=0"):
        peft.bottleneck((".*",), 8, 2, scale=0)
