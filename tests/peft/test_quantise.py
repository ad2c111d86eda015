"""A base in few bits: its error, its bytes, and that adapters alone are trained on it."""

from statistics import NormalDist

import jax
import numpy as np
import optax
import pytest
from small_vit import IMAGES, base, randomised, run

from jtl import peft
from jtl.methods.finetune.finetune import finetune
from jtl.params import flatten, select
from jtl.peft.quantise import NF4
from jtl.train import make_step

WHERE = (r"block\d/.*",)
ADAPTER = peft.lora(2, (r"block\d/attention/query", r"block\d/mlp/up"))
BOUNDS = {"int8": 1 / 254, "nf4": max(np.diff(NF4)) / 2}


def test_nf4_is_quantiles_of_a_normal_distribution():
    """Eight spaces of probability from 0 up, seven from 0 down, between 0.9677083 and its mirror; the largest is 1."""
    ppf = NormalDist().inv_cdf
    above = [ppf(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    below = [-ppf(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
    values = np.sort([*above, 0.0, *below])
    np.testing.assert_allclose(NF4, values / values.max(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", BOUNDS)
def test_the_error_is_within_its_bound(kind):
    """Of every number, by its block's largest; each is the nearest level by a search over all; bytes are counted."""
    net, variables = base()
    zeroed = variables.params["backbone"]["block1"]["mlp"]["up"]
    zeroed["kernel"] = zeroed["kernel"].copy()
    zeroed["kernel"][:4] = 0
    _, small = peft.quantise(net, variables, WHERE, kind)
    before, after, few = (flatten(v.params) for v in (variables, peft.restored(small), small))
    assert before.keys() == after.keys()
    levels = np.arange(-127, 128) / 127 if kind == "int8" else np.array(NF4)
    changed = set()
    for path, leaf in before.items():
        if np.array_equal(leaf, after[path]):
            continue
        changed.add(path)
        blocks = np.asarray(leaf, np.float64).reshape(-1, 64)
        scale = np.abs(blocks).max(1, keepdims=True)
        error = np.asarray(after[path], np.float64).reshape(-1, 64) - blocks
        assert (np.abs(error) <= BOUNDS[kind] * scale + 1e-6).all(), path
        nearest = np.abs(blocks[..., None] - levels * scale[..., None]).min(-1)
        np.testing.assert_allclose(np.abs(error), nearest, rtol=0, atol=1e-6, err_msg=path)
        bits = 8 if kind == "int8" else 4
        bytes_of = {end: few[f"{path}/{end}"].nbytes for end in ("codes", "scales")}
        assert bytes_of == {"codes": leaf.size * bits // 8, "scales": 4 * leaf.size // 64}
    assert changed == {p for p in before if p.startswith("backbone/block") and p.endswith("/kernel")}
    np.testing.assert_array_equal(after["backbone/block1/mlp/up/kernel"][:4], 0)


@pytest.mark.parametrize("kind", BOUNDS)
def test_trains_adapters_as_on_the_restored_base(kind):
    """A step in few bits is the step on restored numbers; the codes stay, and have no gradient to ask for."""
    net, variables = base()
    net, variables = peft.attach(net, variables, ADAPTER, jax.random.key(1))
    variables = randomised(variables)
    small_net, small = peft.quantise(net, variables, WHERE, kind)
    big = peft.restored(small)
    np.testing.assert_allclose(run(small_net, small), run(net, big), rtol=0, atol=1e-5)
    batch = {"x": IMAGES, "y": np.array([0, 1, 2, 0])}

    def after(net, variables):
        step = make_step(finetune(net), optax.sgd(0.1), trainable=select("backbone/adapter/.*"))
        return flatten(jax.jit(step)(step.init(variables, jax.random.key(0)), batch)[0].params)

    found, wanted, before = after(small_net, small), after(net, big), flatten(small.params)
    for path, leaf in found.items():
        if "/adapter/" in path:
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path)
            assert not np.array_equal(leaf, before[path]), path
        else:
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    with pytest.raises(TypeError):
        jax.grad(lambda p: small_net.apply(small._replace(params=p), IMAGES, train=False)[0].output.sum())(small.params)


def test_initialises_in_few_bits():
    net, variables = base()
    small_net, small = peft.quantise(net, variables, WHERE, "nf4")
    made = jax.eval_shape(small_net.init, jax.random.key(0), IMAGES)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(lambda a: (a.shape, a.dtype), small)


def test_what_would_be_wrong_raises():
    net, variables = base()
    with pytest.raises(ValueError, match="256 numbers, of which block=60"):
        peft.quantise(net, variables, WHERE, "int8", block=60)
    with pytest.raises((ValueError, TypeError), match="fp4"):  # a checked annotation raises first
        peft.quantise(net, variables, WHERE, "fp4")  # pyright: ignore[reportArgumentType]
    odd = variables._replace(params={"dense": {"kernel": np.ones((64, 3), np.float32)}})
    with pytest.raises(ValueError, match=r"\(64, 3\); 'nf4' takes an even last axis"):
        peft.quantise(net.parts["backbone"], odd, ("dense",), "nf4")
    small_net, small = peft.quantise(net, variables, WHERE, "int8")
    with pytest.raises(ValueError, match="match no module"):
        peft.attach(small_net, small, ADAPTER, jax.random.key(0))
