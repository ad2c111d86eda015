"""Visual prompts against blocks that are run by hand, prompts and patches side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prompted import NETS, random_variables, texts
from small_vit import IMAGES, SIZE, base

from jtl import backbones, peft
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.transformer import Block


def by_hand(params, deep):
    """Features of `[x; P]` through two blocks, with P cut off by hand."""
    images = jnp.asarray(IMAGES).reshape(4, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 4, 48)
    x = images @ params["embed"]["kernel"].reshape(48, 16) + params["embed"]["bias"][None, None]
    x = jnp.concatenate([jnp.repeat(params["class_token"], 4, 0), x], 1) + params["position"]
    block, found, prompt = Block(SIZE.heads, SIZE.hidden, 1e-6), {}, jnp.zeros(())
    for i in (1, 2):
        if i == 1 or deep:
            prompt = jnp.repeat(params["adapter"][f"block{i}"]["prompt"][None], 4, 0)
        y = jnp.asarray(block.apply({"params": params[f"block{i}"]}, jnp.concatenate([prompt, x], 1), False))
        prompt, x = y[:, :3], y[:, 3:]
        found[f"stage{i}"] = x
    last = jnp.asarray(LayerNorm(1e-6).apply({"params": params["norm"]}, x))
    return found | {"last": last, "pooled": last[:, 0]}


@pytest.mark.parametrize("deep", [True, False])
def test_is_blocks_on_prompts_beside_patches(deep):
    net, variables = base()
    net, variables = peft.attach(net, variables, peft.vpt(3, deep=deep), jax.random.key(1))
    params = variables.params["backbone"]
    assert params["adapter"].keys() == ({"block1", "block2"} if deep else {"block1"})
    found = jax.jit(lambda v: net.apply(v, IMAGES, train=False)[0].features)(variables)
    wanted = by_hand(params, deep)
    assert found.keys() == wanted.keys()
    for name, feature in wanted.items():
        np.testing.assert_allclose(found[name], feature, rtol=0, atol=1e-5, err_msg=name)

    def loss(prompts):
        changed = variables._replace(params={**variables.params, "backbone": {**params, "adapter": prompts}})
        return (net.apply(changed, IMAGES, train=False)[0].output ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(params["adapter"])
    assert all((np.asarray(leaf) != 0).all() for leaf in jax.tree.leaves(gradient))


def test_averages_are_of_the_patches():
    """DINOv2's mean of patches, after registers, at a size for which positions are interpolated."""
    net = backbones.dinov2(SIZE, patch=4, image=8, registers=2)
    variables = random_variables(net, IMAGES)
    net, variables = peft.attach(net, variables, peft.vpt(3), jax.random.key(1))
    images = np.random.default_rng(3).normal(size=(2, 12, 12, 3)).astype(np.float32)
    found = jax.jit(lambda v: net.apply(v, images, train=False)[0])(variables)
    assert {name: y.shape for name, y in found.items() if y.ndim == 3} == dict.fromkeys(
        ("stage1", "stage2", "last"), (2, 12, 16)
    )
    mean = np.asarray(found["last"])[:, 3:].mean(1)
    np.testing.assert_allclose(np.asarray(found["pooled"])[:, 16:], mean, rtol=0, atol=1e-6)


def test_stands_beside_lora():
    net, variables = base()
    net, variables = peft.attach(net, variables, peft.vpt(2), jax.random.key(1))
    before = jax.jit(lambda v: net.apply(v, IMAGES, train=False)[0].output)(variables)
    both, more = peft.attach(net, variables, peft.lora(2, (".*/query",)), jax.random.key(2))
    np.testing.assert_allclose(both.apply(more, IMAGES, train=False)[0].output, before, rtol=0, atol=1e-5)
    left = peft.merge(more, peft.lora(2, (".*/query",)))
    assert left.params["backbone"]["adapter"].keys() == {"block1", "block2"}


def test_what_would_be_wrong_raises():
    net, variables = base()
    with pytest.raises(ValueError, match="tokens of the input"):
        peft.merge(peft.attach(net, variables, peft.vpt(2), jax.random.key(0))[1], peft.vpt(2))
    with pytest.raises(ValueError, match="count=0"):
        peft.vpt(0)
    text, x = NETS["gpt2"], texts("gpt2")
    prompted, more = peft.attach(text, random_variables(text, x), peft.vpt(2), jax.random.key(0))
    with pytest.raises(ValueError, match="vpt takes images"):
        prompted.apply(more, x, train=False)
    plain = backbones.mlp((4,))
    with pytest.raises(ValueError, match="match no module"):
        peft.attach(plain, plain.init(jax.random.key(0), jnp.ones((1, 2))), peft.vpt(2), jax.random.key(0))
