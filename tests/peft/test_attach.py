"""Adapters of a small ViT: against the merged network, and layers in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_vit import IMAGES, base, randomised, run

from jtl import backbones, peft
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables
from jtl.params import flatten, select, unflatten
from jtl.train import make_step

QV = (r"block\d+/attention/(query|value)", ".*/mlp/up")
KINDS = {
    "lora": peft.lora(3, QV, alpha=6),
    "rslora": peft.lora(3, QV, alpha=6, rank_stabilised=True),
    "dora": peft.lora(3, QV, alpha=6, magnitude=True),
    "ia3": peft.ia3((".*/attention/(key|value)",), inputs=(".*/mlp/down",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_the_base_and_merges(kind):
    """The start is the base's output; with random adapters the merged base computes the same, and not what it did."""
    net, variables = base()
    adapted, more = peft.attach(net, variables, KINDS[kind], jax.random.key(1))
    before = run(net, variables)
    np.testing.assert_allclose(run(adapted, more), before, rtol=0, atol=1e-5)
    changed = randomised(more)
    merged = peft.merge(changed, KINDS[kind])
    assert flatten(merged.params).keys() == flatten(variables.params).keys()
    found = run(adapted, changed)
    np.testing.assert_allclose(run(net, merged), found, rtol=0, atol=2e-5)
    assert np.abs(found - before).max() > 1e-2


NEUTRAL = {
    "b": 0,
    "scale": 1,
    "l": 0,
    "q": 0,
    "gamma": 1,
    "beta": 0,
    "expand_kernel": 0,
    "expand_bias": 0,
    "a2": 0,
    "w1": 0,
}
OTHERS = {
    "loha": peft.loha(2, (*QV, "embed")),
    "lokr": peft.lokr(2, (*QV, "embed")),
    "vera": peft.vera(QV, peft.projections(jax.random.key(3), 4, 32, 32)),
    "oft": peft.oft(QV, 4),
    "ssf": peft.ssf((r"block\d/.*",)),
    "bottleneck": peft.bottleneck((r"block\d/mlp",), 16, 3),
}


@pytest.mark.parametrize("kind", ["lora", "rslora", "ia3", *OTHERS])
def test_a_scale_of_nothing_is_the_base_whatever_else_an_adapter_has(kind):
    """B = 0, l = 0 and the like beside random values of all others: the base's output."""
    net, variables = base()
    adapted, more = peft.attach(net, variables, (KINDS | OTHERS)[kind], jax.random.key(1))
    flat = flatten(randomised(more).params)
    for path, leaf in flat.items():
        name = path.rpartition("/")[2]
        if "/adapter/" in path and name in NEUTRAL:
            flat[path] = np.full_like(leaf, NEUTRAL[name])
    found = run(adapted, more._replace(params=unflatten(flat)))
    np.testing.assert_allclose(found, run(net, variables), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_kernel_is_the_formula(kind):
    """Of one layer, in numpy float64, with scale alpha / rank = 2, or 6 / sqrt(3)."""
    net, variables = base()
    more = randomised(peft.attach(net, variables, KINDS[kind], jax.random.key(1))[1])
    path = "block1/mlp/down" if kind == "ia3" else "block1/attention/query"
    flat = {name: np.asarray(leaf, np.float64) for name, leaf in flatten(more.params).items()}
    kernel = flat[f"backbone/{path}/kernel"]
    part = {name.split("/")[-1]: leaf for name, leaf in flat.items() if name.startswith(f"backbone/adapter/{path}/")}
    if kind == "ia3":
        expected = np.diag(part["scale"]) @ kernel
    else:
        expected = kernel + {"rslora": 6 / np.sqrt(3)}.get(kind, 2) * part["a"] @ part["b"]
    if kind == "dora":
        expected = expected / np.linalg.norm(expected, axis=0) * part["m"]
    found = flatten(peft.merge(more, KINDS[kind]).params)[f"backbone/{path}/kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_trains_the_adapters_alone():
    net, variables = base()
    net, variables = peft.attach(net, variables, KINDS["lora"], jax.random.key(1))
    objective = finetune(net)
    step = make_step(objective, optax.adam(1e-2), trainable=select("backbone/adapter/.*"))
    batch = {"x": IMAGES, "y": np.array([0, 1, 2, 0])}
    state, _ = jax.jit(step)(step.init(variables, jax.random.key(0)), batch)
    before, after = flatten(variables.params), flatten(state.params)
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    # A has no gradient while B is 0.
    assert changed == {path for path in before if "/adapter/" in path and path.endswith("/b")}


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "ia3", "pissa", "oft", "ssf"])
def test_on_a_base_in_bfloat16_small_steps_count_and_the_base_stays(kind):
    """Steps that bfloat16 would lose change the adapter alone; the loss is the float32 base's within 3 %."""
    net, variables = base()
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    adapter = {**KINDS, **OTHERS, "pissa": peft.lora(3, QV, start="pissa")}[kind]
    adapted, more = peft.attach(net, low, adapter, jax.random.key(1))
    step = make_step(finetune(adapted), optax.sgd(1e-4), trainable=select("backbone/adapter/.*"))
    batch = {"x": IMAGES, "y": np.array([0, 1, 2, 0])}
    state, found = jax.jit(step)(step.init(more, jax.random.key(0)), batch)
    before, after = flatten(more.params), flatten(state.params)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved
    assert all("/adapter/" in path and after[path].dtype == jnp.float32 for path in moved)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in flatten(peft.merge(more, adapter).params).values())
    loss, _ = finetune(net)(variables.params, variables.stats, batch, None, 0)
    np.testing.assert_allclose(found["loss"], loss.value, rtol=3e-2)


@pytest.mark.parametrize("kind", ["ia3", "ssf", "dora"])
def test_factors_near_one_are_not_rounded_on_a_base_in_bfloat16(kind):
    """The nearest bfloat16 of 1.003 is 1; the product of it and an output is often another bfloat16."""
    where = ("stage1/dense",)
    made = {"ia3": peft.ia3(where), "ssf": peft.ssf(where), "dora": peft.lora(2, where, magnitude=True)}
    net, x = backbones.mlp((64,)), jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.bfloat16)
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net.init(jax.random.key(0), x))
    adapted, more = peft.attach(net, low, made[kind], jax.random.key(1))
    own = more.params["adapter"]["stage1"]["dense"]
    factor = {"ia3": "scale", "ssf": "gamma", "dora": "m"}[kind]
    own[factor] = own[factor] * 1.003
    before, found = (
        np.asarray(n.apply(v, x, train=False)[0]["pooled"], np.float64) for n, v in ((net, low), (adapted, more))
    )
    np.testing.assert_allclose(found, 1.003 * before, rtol=2.0**-8)
    assert (found != before)[before > 0].mean() > 0.2


def test_patterns_that_match_nothing_are_named():
    net, variables = base()
    with pytest.raises(ValueError, match=r"\['nowhere'\] match no module; there are \['block1/attention/key'"):
        peft.attach(net, variables, peft.lora(2, (".*/mlp/up", "nowhere")), jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"; 'attention/query' matches a part of 'block1/attention/query', and a whole"
    ):
        peft.attach(net, variables, peft.lora(2, ("attention/query",)), jax.random.key(0))
    odd = variables._replace(params={"embed": {"kernel": np.ones((2, 3, 4), np.float32)}})
    with pytest.raises(ValueError, match="dense layers"):
        peft.attach(net, odd, peft.ia3(("embed",)), jax.random.key(0))
    more = peft.attach(net, variables, KINDS["lora"], jax.random.key(0))
    with pytest.raises(ValueError, match="have an adapter already"):
        peft.attach(*more, KINDS["lora"], jax.random.key(0))
    with pytest.raises(ValueError, match="rank=0"):
        peft.lora(0, (".*",))
    with pytest.raises(ValueError, match="there is no adapter"):
        peft.summary(variables)


def test_dropout_draws_apart_at_each_module_and_keeps_the_mean():
    """Over many keys the mean output of one dense layer with dropout is that without; without a key it raises."""
    net = backbones.mlp((4,))
    x = jnp.ones((2, 5))
    plain, dropped = (peft.lora(2, ("stage1/dense",), dropout=p) for p in (0.0, 0.5))
    variables = Variables({"stage1": {"dense": {"kernel": jnp.full((5, 4), 0.5), "bias": jnp.full(4, 10.0)}}}, {})
    net_a, more = peft.attach(net, variables, plain, jax.random.key(0))
    net_b, _ = peft.attach(net, variables, dropped, jax.random.key(0))
    more.params["adapter"]["stage1"]["dense"]["b"] = jnp.ones((2, 4))
    expected = net_a.apply(more, x, train=True, key=jax.random.key(0))[0]["pooled"]
    keys = jax.random.split(jax.random.key(3), 4000)
    found = jax.jit(jax.vmap(lambda k: net_b.apply(more, x, train=True, key=k)[0]["pooled"]))(keys)
    assert found.std(0).min() > 1e-2
    np.testing.assert_allclose(found.mean(0), expected, atol=0.08)
    with pytest.raises(ValueError, match="give apply"):
        net_b.apply(more, x, train=True)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda where: peft.lora(2, where), "where"),
        (lambda where: peft.loha(2, where), "where"),
        (lambda where: peft.lokr(2, where), "where"),
        (lambda where: peft.oft(where, 2), "where"),
        (lambda where: peft.prefix_tuning(2, where), "where"),
        (lambda where: peft.vera(where, peft.projections(jax.random.key(0), 2, 8, 8)), "where"),
        (lambda where: peft.bottleneck(where, 8, 2), "where"),
        (peft.ssf, "where"),
        (peft.ia3, "outputs"),
        (lambda where: peft.ia3((), where), "inputs"),
    ],
)
def test_one_string_in_place_of_patterns_is_refused(make, option):
    with pytest.raises(ValueError, match=rf"{option}='\.\*': give a tuple of regexes"):
        make(".*")
