"""Interception: what an interceptor sees, proven by a LoRA that is written as one."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import backbones, heads, rng
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables, cast_floating, from_linen
from jtl.networks import network
from jtl.params import flatten, select, unflatten
from jtl.train import make_step, pmap_step, replicated, split_batch, unreplicated
from jtl.transform.fused_attention import fused_attention
from jtl.transform.intercept import intercepted
from jtl.transform.remat import checkpointed

SIZE = backbones.Size(16, 2, 2, 32)
IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
TEXTS = {"ids": np.arange(40).reshape(8, 5) % 9, "mask": np.arange(5) < np.arange(8).reshape(8, 1) % 4 + 2}


def vit(**options):
    return backbones.vit(SIZE, patch=4, image=8, **options)


def bert():
    return backbones.bert(SIZE, vocabulary=9, dropout=0.0, attention_dropout=0.0)


def clip():
    text = backbones.clip_text(SIZE, vocabulary=9, positions=5, end=8, projection=8)
    return backbones.two_towers(backbones.clip_image(SIZE, patch=4, image=8, projection=8), text)


NETS = {
    "vit": (vit, IMAGES, r"block\d+/attention/(query|value)"),
    "bert": (bert, TEXTS, r"block2/.*"),
    "clip": (clip, {"image": IMAGES, "text": TEXTS}, r"image/block1/attention/(query|out)"),
}


def lora(model, pattern, scale=1.0, rank=2):
    """x W + scale · x A B for the layers whose path matches."""

    def init(key, x):
        made = model.init(key, x)
        leaves = {}
        for path, kernel in flatten(made.params).items():
            module = path.removesuffix("/kernel")
            if path.endswith("/kernel") and re.fullmatch(pattern, module):
                leaves[f"{module}/a"] = jax.random.normal(rng.stream(key, module), (kernel.shape[0], rank))
                leaves[f"{module}/b"] = jnp.zeros((rank, kernel.shape[1]))
        return made._replace(params=made.params | {"adapter": unflatten(leaves)})

    class Adding:
        count = 0

        def __call__(self, run, args, kwargs, call):
            leaves = flatten(call.variables.params["adapter"])
            if call.method != "__call__" or f"{call.path}/a" not in leaves:
                return run(*args, **kwargs)
            self.count += 1
            return run(*args, **kwargs) + scale * (args[0] @ leaves[f"{call.path}/a"] @ leaves[f"{call.path}/b"])

    return intercepted(model._replace(init=init), Adding, f"no layer matches {pattern!r}")


def drawn(model, key, x):
    """Variables of which every number is random."""
    shapes, draw = jax.eval_shape(model.init, key, x), np.random.default_rng(1)
    return jax.tree.map(lambda a: draw.normal(0, 0.3, a.shape).astype(a.dtype), shapes)


def without(variables):
    return Variables({n: p for n, p in variables.params.items() if n != "adapter"}, variables.stats)


def merged(params, scale=1.0):
    """The base's parameters with W + scale · A B in the place of each adapted W."""
    own, base = flatten(params["adapter"]), flatten({n: p for n, p in params.items() if n != "adapter"})
    for path in own:
        if path.endswith("/a"):
            module = path.removesuffix("/a")
            base[f"{module}/kernel"] = base[f"{module}/kernel"] + scale * own[path] @ own[f"{module}/b"]
    return unflatten(base)


def run(model, variables, x):
    return jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, x)


def close(a, b, tolerance=1e-5):
    """To a few roundings of float32 of the largest number."""
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(b))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size), a, b)


@pytest.mark.parametrize("name", NETS)
def test_only_the_layers_that_match_change_and_by_scale_x_a_b(name, key):
    build, x, pattern = NETS[name]
    model = lora(build(), pattern, 0.5)
    variables = drawn(model, key, x)
    found, base = run(model, variables, x), run(build(), without(variables), x)
    close(found, run(build(), Variables(merged(variables.params, 0.5), {}), x))
    assert float(jnp.abs(found["pooled"] - base["pooled"]).max()) > 1e-2
    if name == "clip":  # both towers have a block1
        np.testing.assert_array_equal(found["text"], base["text"])


@pytest.mark.parametrize("name", NETS)
def test_of_scale_0_it_is_the_base_bit_for_bit(name, key):
    build, x, pattern = NETS[name]
    model = lora(build(), pattern, 0.0)
    variables = drawn(model, key, x)
    jax.tree.map(np.testing.assert_array_equal, run(model, variables, x), run(build(), without(variables), x))


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_the_chain_rule(name, key):
    """Of L(W + A B): ∂L/∂A = ∂L/∂W Bᵀ and ∂L/∂B = Aᵀ ∂L/∂W."""
    build, x, pattern = NETS[name]
    model, base = lora(build(), pattern), build()
    params = drawn(model, key, x).params

    def loss(apply, params):
        return jnp.sin(apply(Variables(params, {}), x, train=True, key=jax.random.key(1))[0]["pooled"]).sum()

    found = flatten(jax.jit(jax.grad(lambda p: loss(model.apply, p)))(params)["adapter"])
    outer = flatten(jax.jit(jax.grad(lambda p: loss(base.apply, p)))(merged(params)))
    own, expected = flatten(params["adapter"]), {}
    for path in own:
        module, leaf = path.rsplit("/", 1)
        by = outer[f"{module}/kernel"]
        expected[path] = by @ own[f"{module}/b"].T if leaf == "a" else own[f"{module}/a"].T @ by
    close(found, expected)


@pytest.mark.parametrize("name", NETS)
def test_a_step_trains_a_and_b_alone(name, key):
    build, x, pattern = NETS[name]
    net = network(backbone=lora(build(), pattern), head=heads.linear(3))
    objective, batch = finetune(net), {"x": x, "y": np.arange(8) % 3}
    before = drawn(net, key, x)
    step = make_step(objective, optax.sgd(0.1), trainable=select("backbone/adapter/.*"))
    state = jax.jit(step)(step.init(before, key), batch)[0]
    same = {path: np.array_equal(leaf, flatten(state.params)[path]) for path, leaf in flatten(before.params).items()}
    assert {path for path in same if not same[path]} == {path for path in same if path.startswith("backbone/adapter/")}
    modules = {path.rsplit("/", 1)[0].removeprefix("backbone/adapter/") for path in same if not same[path]}
    assert modules
    assert all(re.fullmatch(pattern, module) for module in modules)


def test_eight_devices_are_one(key):
    net = network(backbone=lora(vit(), NETS["vit"][2]), head=heads.linear(3))
    before, batch = drawn(net, key, IMAGES), {"x": IMAGES, "y": np.arange(8) % 3}
    step = make_step(finetune(net), optax.sgd(0.1), trainable=select("backbone/adapter/.*"))
    state = step.init(before, key)
    one = jax.jit(step)(state, batch)[0]
    eight = unreplicated(pmap_step(step)(replicated(state), split_batch(batch))[0])
    moved = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(before.params), strict=True)
    )
    assert moved > 1e-3
    close(eight.params, one.params, 1e-6)


@pytest.mark.parametrize("around", [checkpointed, fused_attention])
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_interceptors_nest(around, order, key):
    pattern = NETS["vit"][2]
    plain = lora(vit(), pattern)
    both = around(plain) if order == "outside" else lora(around(vit()), pattern)
    variables = drawn(plain, key, IMAGES)

    def loss(model):
        return jax.jit(
            jax.value_and_grad(
                lambda p: jnp.sin(model.apply(Variables(p, {}), IMAGES, train=True, key=key)[0]["pooled"]).sum()
            )
        )(variables.params)

    close(loss(both), loss(plain), 1e-6)


class Recording:
    """Notes what it sees."""

    def __init__(self, seen):
        self.seen, self.count = seen, 1

    def __call__(self, run, args, kwargs, call):
        self.seen.append((call.path, call.method, call.train, call.key, type(call.module).__name__, args))
        return run(*args, **kwargs)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("wrapped", ["backbone", "network"])
def test_paths_are_those_of_the_parameters(name, wrapped, key):
    build, x, _ = NETS[name]
    backbone, seen = build(), []

    def recorded(model):
        return intercepted(model, lambda: Recording(seen), "nothing")

    net = network(backbone=recorded(backbone) if wrapped == "backbone" else backbone, head=heads.linear(3))
    net = net if wrapped == "backbone" else recorded(net)
    variables = net.init(key, x)
    seen.clear()
    net.apply(variables, x, train=True, key=key)
    kernels = flatten(variables.params if wrapped == "network" else variables.params["backbone"])
    layers = {path.removesuffix("/kernel") for path in kernels if path.endswith("/kernel")}
    assert {
        path for path, method, _, _, kind, _ in seen if method == "__call__" and kind in ("Dense", "Conv")
    } == layers
    given = key if wrapped == "network" else rng.stream(key, "backbone")
    assert all(train for _, _, train, _, _, _ in seen)
    assert {str(jax.random.key_data(k)) for _, _, _, k, _, _ in seen} == {str(jax.random.key_data(given))}
    seen.clear()
    net.apply(variables, x, train=False)
    assert {(train, k) for _, _, train, k, _, _ in seen} == {(False, None)}


def test_adapters_do_not_decide_what_a_model_computes_in(key):
    """As a frozen backbone in half precision with adapters in float32."""
    seen = []
    model = intercepted(vit(), lambda: Recording(seen), "nothing")
    variables = vit().init(key, IMAGES)
    half = cast_floating(variables.params, jnp.bfloat16) | {"adapter": {"block1": {"a": jnp.zeros(3)}}}
    out, _ = model.apply(Variables(half, {}), IMAGES, train=False)
    assert seen[0][-1][0].dtype == jnp.bfloat16
    assert out["pooled"].dtype == jnp.bfloat16


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return {"pooled": nn.Dense(2, name="adapter")(x)}


def test_a_module_of_that_name_and_a_pattern_of_nothing_are_refused(key):
    with pytest.raises(ValueError, match=r"Own names a module 'adapter', which is kept for interceptors"):
        from_linen(Own()).init(key, jnp.ones((2, 3)))
    model = lora(vit(), "block9/.*")
    with pytest.raises(ValueError, match=r"no layer matches 'block9/\.\*'"):
        model.apply(model.init(key, IMAGES), IMAGES, train=False)


def test_a_path_ends_with_its_part_also_after_an_error(key):
    model = clip()
    variables = model.init(key, NETS["clip"][1])
    with pytest.raises(TypeError):
        model.apply(variables, {"image": IMAGES, "text": None}, train=False)
    seen = []
    tower = intercepted(vit(), lambda: Recording(seen), "nothing")
    tower.apply(tower.init(key, IMAGES), IMAGES, train=False)
    assert {path.split("/")[0] for path, *_ in seen} >= {"block1", "block2"}
    assert not any(path.startswith("text") for path, *_ in seen)
