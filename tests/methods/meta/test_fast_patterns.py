"""What is fast is a pattern: MAML, ANIL, BOIL, adapters; CAVIA, WarpGrad and meta-transfer on a network's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, tasks_of
from nets import dense, largest_difference

from jtl import backbones, heads, peft
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.cavia import cavia, with_context
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import meta
from jtl.methods.meta.meta_transfer import scaled_and_shifted
from jtl.methods.meta.over_episodes import over_episodes
from jtl.methods.meta.update_rules import fixed_rate, learned_rate
from jtl.methods.meta.warp import warped
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.step import make_step

pytestmark = pytest.mark.whole

RATE = fixed_rate(0.3)


def moved(before, after):
    a, b = flatten(before), flatten(after)
    return {path for path in b if float(jnp.abs(a[path] - b[path]).max()) > 0}


def test_the_inner_loop_changes_what_the_pattern_names_and_the_outer_all(key):
    rows = few_shot(tasks=2)
    support = tasks_of(rows["support"])[0]
    body = warped(dense(8), "layer0")
    inner = finetune(network(backbone=body, head=heads.linear(3)))
    variables = inner.init(key, support)
    layer = {"backbone/layer0/kernel", "backbone/layer0/bias"}
    head, warp = {"head/out/kernel", "head/out/bias"}, {"backbone/adapter/layer0/warp"}
    for pattern, names in {
        "head/.*": head,  # ANIL
        "backbone/.*": layer | warp,  # BOIL
        "backbone/adapter/.*": warp,  # as LoRA-only MAML
        r"(?!backbone/adapter/).*": layer | head,  # WarpGrad
    }.items():
        adapt = adapt_to(inner, RATE, steps=2, adapted=select(pattern))
        assert moved(variables.params, adapt(variables.params, {}, support, key)[0]) == names
    grads = jax.grad(lambda p: total(meta(adapt, inner)(p, {}, rows, key, 0)[0]))(variables.params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


def test_a_warp_starts_as_nothing_and_multiplies_channels(key):
    plain, x = backbones.mlp((8, 4)), jax.random.normal(key, (3, 5))
    body = warped(plain, r"stage\d/dense")
    params = body.init(key, x).params
    before = plain.apply(Variables({n: v for n, v in params.items() if n != "adapter"}, {}), x, train=False)[0]["last"]
    np.testing.assert_array_equal(body.apply(Variables(params, {}), x, train=False)[0]["last"], before)
    draw = np.random.default_rng(0)
    warps = {name: draw.normal(size=(n, n)).astype(np.float32) for name, n in (("stage1", 8), ("stage2", 4))}
    params["adapter"] = {name: {"dense": {"warp": jnp.asarray(w)}} for name, w in warps.items()}
    h = np.asarray(x)
    for name, w in warps.items():
        own = jax.tree.map(np.asarray, params[name]["dense"])
        h = np.maximum((h @ own["kernel"] + own["bias"]) @ w, 0)
    np.testing.assert_allclose(body.apply(Variables(params, {}), x, train=False)[0]["last"], h, rtol=1e-4, atol=1e-5)


def test_scale_and_shift_are_torchs_convolution_with_scaled_weights(key):
    """Against `F.conv2d` with W·s and a bias δ, by a convolution that has none of its own."""
    torch = pytest.importorskip("torch", reason="torch is the reference; the test extra installs it")
    plain, x = backbones.conv4(4, downsample="stride"), jax.random.normal(key, (2, 16, 16, 3))
    body = scaled_and_shifted(plain, r"stage\d/conv")
    variables = body.init(key, x)
    before = Variables({n: v for n, v in variables.params.items() if n != "adapter"}, variables.stats)
    same = body.apply(variables, x, train=False)[0]["last"]
    np.testing.assert_array_equal(same, plain.apply(before, x, train=False)[0]["last"])
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda a: a, variables.params)
    params["adapter"] = jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape), jnp.float32), params["adapter"])
    h = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    for i in range(1, 5):
        own, new = params[f"stage{i}"], params["adapter"][f"stage{i}"]["conv"]
        w = torch.tensor(np.asarray(own["conv"]["kernel"] * new["scale"][None, None])).permute(3, 2, 0, 1)
        h = torch.nn.functional.conv2d(h, w, torch.tensor(np.asarray(new["shift"])), stride=2, padding=1)
        h = torch.relu(h / (1 + 1e-5) ** 0.5)  # running mean 0 and variance 1
    found = body.apply(Variables(params, variables.stats), x, train=False)[0]["last"]
    np.testing.assert_allclose(found, h.permute(0, 2, 3, 1), rtol=1e-3, atol=1e-4)


def test_meta_transfer_keeps_what_was_pretrained(key):
    """A step learns scales, shifts and the head's start; in the inner loop the head alone moves."""
    rows = few_shot(tasks=2)
    inner = finetune(network(backbone=scaled_and_shifted(dense(8), "layer0"), head=heads.linear(3)))
    objective = meta(adapt_to(inner, RATE, steps=2, adapted=select("head/.*")), inner)
    variables = objective.init(key, rows)
    step = make_step(objective, optax.sgd(0.1), trainable=select("backbone/adapter/.*", "head/.*"))
    state, _ = jax.jit(step)(step.init(variables, key), rows)
    assert moved(variables.params, state.params) == {
        "backbone/adapter/layer0/scale",
        "backbone/adapter/layer0/shift",
        "head/out/kernel",
        "head/out/bias",
    }


def test_a_transformer_with_loaded_weights_is_scaled_and_shifted(key):
    """It starts as the loaded network, which an outer step leaves as it is."""
    body, pattern = backbones.vit(backbones.Size(8, 1, 2, 16), patch=4, image=8), r"block\d/mlp/(up|down)"
    x = jax.random.normal(key, (2, 6, 8, 8, 3))
    rows = {half: {"x": x, "y": jnp.tile(jnp.arange(3), (2, 2))} for half in ("support", "query")}
    plain = network(backbone=body, head=heads.linear(3))
    loaded = jax.jit(plain.init)(jax.random.key(1), x[0])
    net = network(backbone=scaled_and_shifted(body, pattern), head=heads.linear(3))
    inner = finetune(net, frozen_stats=True)
    objective = meta(adapt_to(inner, RATE, steps=1, adapted=select("head/.*")), inner)
    variables = jax.jit(objective.init)(key, rows, loaded)
    found, expected = (jax.jit(lambda v, n=n: n.apply(v, x[0], train=False)[0].output) for n in (net, plain))
    np.testing.assert_array_equal(found(variables), expected(loaded))
    step = make_step(objective, optax.sgd(0.1), trainable=select("backbone/adapter/.*", "head/.*"))
    state, _ = jax.jit(step)(step.init(variables, key), rows)
    changed = {path for path in moved(variables.params, state.params) if path.startswith("backbone/")}
    own = {path for path in flatten(state.params) if path.startswith("backbone/adapter/")}
    assert changed == own
    assert len(own) == 2 * 2  # a scale and a shift of two layers


def few_layers(kind):
    """A network of each pattern, and how it adapts."""
    body = {
        "ANIL": dense(4),
        "BOIL": dense(4),
        "WarpGrad": warped(dense(4), "layer0"),
        "meta-transfer": scaled_and_shifted(dense(4), "layer0"),
        "CAVIA": with_context(dense(4), 2),
        "LoRA": dense(4),
    }[kind]
    net = network(backbone=body, head=heads.linear(3))
    if kind == "LoRA":
        key = jax.random.key(1)
        made = net.init(key, few_shot(tasks=1)["support"]["x"][0])
        net = peft.attach(net, made, peft.lora(2, ("layer0",)), key)[0]
    inner = finetune(net)
    if kind == "CAVIA":
        return inner, cavia(inner, learned_rate(0.3), steps=2)
    head = {
        "BOIL": ["backbone/.*"],
        "WarpGrad": [r"(?!backbone/adapter/).*"],
        "LoRA": ["backbone/adapter/.*", "head/.*"],
    }.get(kind, ["head/.*"])
    return inner, adapt_to(inner, learned_rate(0.3), steps=2, adapted=select(*head))


@pytest.mark.parametrize("kind", ["ANIL", "BOIL", "WarpGrad", "meta-transfer", "CAVIA", "LoRA"])
def test_the_meta_gradient_of_a_pattern_is_that_of_differences(key, kind):
    """Along a random direction over all parameters, what adapts, what does not, and the rates; in float64."""
    with jax.enable_x64(True):
        rows = jax.tree.map(lambda a: jnp.asarray(a, np.promote_types(a.dtype, np.int64)), few_shot(tasks=2))
        inner, adapt = few_layers(kind)
        objective = meta(adapt, inner)
        draw = np.random.default_rng(0)
        params = jax.tree.map(
            lambda a: jnp.asarray(a + 0.1 * draw.normal(size=a.shape)), objective.init(key, rows).params
        )
        along = jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape)), params)
        run = jax.jit(jax.value_and_grad(lambda p: total(objective(p, {}, rows, key, 0)[0])))
        there, back = (run(jax.tree.map(lambda p, d, h=h: p + h * d, params, along))[0] for h in (1e-6, -1e-6))
        exact = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), run(params)[1], along)))
        np.testing.assert_allclose((there - back) / 2e-6, exact, rtol=1e-6)


def test_cavia_adapts_a_context_from_zero(key):
    """Against a loop by hand on the context; a context that stands in the parameters is not looked at."""
    rows = few_shot(tasks=2)
    support = tasks_of(rows["support"])[0]
    inner = finetune(network(backbone=with_context(dense(8), 3), head=heads.linear(3)))
    adapt = cavia(inner, learned_rate(0.5), steps=2)
    objective = meta(adapt, inner)
    params, stats = objective.init(key, rows)
    assert params["backbone"]["layer0"]["kernel"].shape == (5 + 3, 8)
    params["backbone"]["context"] = jnp.ones(3)
    params["rule"]["backbone"]["context"] = jnp.full(3, 0.7)
    found, _ = adapt(params, stats, support, key)
    network_only = {name: value for name, value in params.items() if name != "rule"}
    c = jnp.zeros(3)

    def at(c):
        return {**network_only, "backbone": {**params["backbone"], "context": c}}

    for _ in range(2):
        c = c - 0.7 * jax.grad(lambda c: total(inner(at(c), {}, support, key, 0)[0]))(c)
    assert largest_difference(found, at(c)) < 1e-6
    assert float(jnp.abs(c).max()) > 1e-3
    grads = jax.jit(jax.grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)
    assert float(jnp.abs(grads["backbone"].pop("context")).max()) == 0
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    after = over_episodes(adapt, {"query": inner}, Variables(params, stats), [rows], metric="loss")["query"].mean
    np.testing.assert_allclose(after[-1], total(objective(params, stats, rows, key, 0)[0]), rtol=1e-5)


def test_a_context_is_channels_of_images(key):
    x = jax.random.normal(key, (2, 16, 16, 1))
    plain = backbones.conv4(4)
    body = with_context(plain, 2)
    variables = body.init(key, x)
    params = {**variables.params, "context": jnp.array([1.0, -2.0])}
    joint = jnp.concatenate([x, jnp.ones_like(x), jnp.full_like(x, -2)], -1)
    own = Variables({n: v for n, v in params.items() if n != "context"}, variables.stats)
    found = body.apply(Variables(params, variables.stats), x, train=False)[0]["last"]
    np.testing.assert_array_equal(found, plain.apply(own, joint, train=False)[0]["last"])


def test_what_does_not_fit_is_refused(key):
    x = jnp.ones((2, 5))
    with pytest.raises(ValueError, match="'stage9' matches no module"):
        warped(backbones.mlp((8,)), "stage9").init(key, x)
    with pytest.raises(ValueError, match="'stage9' matches no module"):
        scaled_and_shifted(backbones.mlp((8,)), "stage9").init(key, x)
    with pytest.raises(ValueError, match=r"'stage1' has no kernel to scale; it has \['stage1/dense/bias'"):
        scaled_and_shifted(backbones.mlp((8,)), "stage1").init(key, x)
    with pytest.raises(ValueError, match="size=0"):
        with_context(backbones.mlp((8,)), 0)
    with pytest.raises(ValueError, match="beside one array of floats"):
        with_context(backbones.mlp((8,)), 2).init(key, jnp.ones((2, 5), int))
    with pytest.raises(ValueError, match="matches no parameter"):
        cavia(finetune(network(backbone=dense(8), head=heads.linear(3))), RATE, steps=1).init(
            key, {"x": x, "y": jnp.zeros(2, int)}
        )
