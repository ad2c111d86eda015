"""Attention by cuDNN: what is handed to the kernel, computed by jax's other one, and what is lowered for CUDA."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import backbones, heads
from jtl.methods.finetune.finetune import finetune
from jtl.model import from_linen
from jtl.networks import network
from jtl.nn.transformer import Attention
from jtl.train import make_step
from jtl.transform.fused_attention import fused_attention
from jtl.transform.remat import checkpointed

BATCH, HEADS, WIDTH = 2, 2, 16


@pytest.fixture
def gpu(monkeypatch):
    """`gpu()`, and it is as on a GPU machine with cuDNN."""

    def pretend():
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)

    return pretend


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What was traced as for a GPU is not taken by the tests of other files."""
    yield
    jax.clear_caches()


class Seeing(nn.Module):
    """Attention from tokens to others."""

    @nn.compact
    def __call__(self, x, train):
        attention = Attention(HEADS, dropout=0.5)
        return {"pooled": attention(x["tokens"], train, x.get("mask"), x["others"], x.get("bias"))}


def inputs(tokens, others, seen):
    """What a model sees; `seen` names a mask's or a bias's shape."""
    rng = np.random.default_rng(0)
    drawn = {n: rng.normal(size=(BATCH, k, WIDTH)) for n, k in (("tokens", tokens), ("others", others))}
    if "mask" in seen:
        rows = tokens if "tokens" in seen else 1
        drawn["mask"] = (rng.random((BATCH, 1, rows, others)) < 0.5) | (np.arange(others) == 0)
    if "bias" in seen:
        drawn["bias"] = rng.normal(size=(1, HEADS, tokens, others))
    return {n: jnp.asarray(a, a.dtype if a.dtype == bool else np.float32) for n, a in drawn.items()}


@pytest.mark.parametrize(
    ("tokens", "others", "seen"),
    [(4, 6, "mask and bias"), (5, 7, ""), (5, 6, "mask"), (4, 7, "mask of tokens"), (5, 7, "bias")],
)
def test_the_kernel_is_given_what_it_wants_and_gives_what_attention_gives(gpu, monkeypatch, key, tokens, others, seen):
    """Even numbers of tokens, masks and biases in full; the same values and gradients."""
    x = inputs(tokens, others, seen)
    model, draw = from_linen(Seeing()), np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, key, x)
    variables = jax.tree.map(lambda a: draw.normal(0, 0.4, a.shape).astype(np.float32), shapes)

    def run(model):
        def loss(floats):
            y = model.apply(variables, x | floats, train=False)[0]["pooled"]
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))({n: a for n, a in x.items() if n != "mask"})

    expected = run(model)
    theirs, calls = jax.nn.dot_product_attention, []

    def other(query, key, value, bias=None, mask=None, *, implementation, **lengths):
        assert implementation == "cudnn"
        assert query.shape[1] % 2 == key.shape[1] % 2 == 0
        assert all(a.shape[2:] == (query.shape[1], key.shape[1]) for a in (bias, mask) if a is not None)
        assert bias is None or bias.dtype == query.dtype
        calls.append(lengths)
        return theirs(query, key, value, bias, mask, implementation="xla", **lengths)

    gpu()
    monkeypatch.setattr(
        "jtl.transform.fused_attention._DTYPES", (jnp.float32,)
    )  # its kernel is of half precision; its sums are the same
    monkeypatch.setattr(jax.nn, "dot_product_attention", other)
    found = run(fused_attention(model))
    assert len(calls) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def lowered(model, example, dtype):
    """The program of a train step, lowered for CUDA."""
    head = heads.linear(3)
    step = make_step(finetune(network(backbone=model, head=head)), optax.sgd(0.1), dtype=dtype)
    batch = {"x": example, "y": jnp.zeros(len(jax.tree.leaves(example)[0]), jnp.int32)}
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: step.init(network(backbone=model, head=head).init(key, example), key))
    return jax.jit(step).trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()


NETS = {
    "vit": (lambda: backbones.vit(backbones.Size(WIDTH, 3, HEADS, 32), patch=8, image=32), jnp.ones((2, 32, 32, 3))),
    "swin": (lambda: backbones.swin((WIDTH, ((2, HEADS),)), window=3, patch=2), jnp.ones((2, 16, 16, 3))),
    "bert": (
        lambda: backbones.bert(backbones.Size(WIDTH, 2, HEADS, 32), vocabulary=9, dropout=0.0, attention_dropout=0.0),
        {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)},
    ),
    "llama": (
        lambda: backbones.llama(
            backbones.Size(WIDTH, 2, HEADS, 32), vocabulary=9, parts=backbones.LlamaParts(groups=1)
        ),
        {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5), bool)},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_gpu_gets_one_kernel_each_way(gpu, name):
    """Lowered once for all blocks alike; none in float32, nor where it was not asked for."""
    build, x = NETS[name]
    gpu()
    plain = lowered(build(), x, jnp.bfloat16)
    fused = lowered(fused_attention(build()), x, jnp.bfloat16)
    kind = "Softmax" if name == "vit" else "ScaleBiasSoftmax"
    ways = 1 + (name == "swin")  # shifted windows see by a mask, others do not
    calls = [f"@__cudnn$fmha{kind}{way}(" for way in ("", "Backward")]
    assert [fused.count(call) for call in calls] == [ways, ways]
    assert fused.count("stablehlo.dot_general") < plain.count("stablehlo.dot_general")
    assert "__cudnn" not in plain
    assert "__cudnn" not in lowered(fused_attention(build()), x, None)


def test_dropped_weights_stay_jtls(gpu):
    gpu()
    build, x = NETS["vit"]
    assert "__cudnn" not in lowered(fused_attention(from_linen(Dropping())), x, jnp.bfloat16)
    assert "__cudnn" in lowered(checkpointed(fused_attention(build())), x, jnp.bfloat16)


class Dropping(nn.Module):
    """Attention within a row of pixels, which drops weights in training."""

    @nn.compact
    def __call__(self, x, train):
        return {"pooled": Attention(1, dropout=0.5)(x.reshape(len(x), -1, 8), train).mean(1)}


def test_a_model_without_attention_is_refused(key):
    net = fused_attention(backbones.mlp([4]))
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="no attention in this model"):
        net.apply(net.init(key, x), x, train=False)


def test_a_cpu_computes_the_same_numbers(key):
    net, x = NETS["vit"][0](), NETS["vit"][1]
    variables = net.init(key, x)
    run = partial(jax.jit, static_argnames="train")
    plain, fused = (run(m.apply)(variables, x, train=False)[0] for m in (net, fused_attention(net)))
    jax.tree.map(np.testing.assert_array_equal, fused, plain)
