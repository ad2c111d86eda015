"""ViT against transformers' on randomised weights: every block, the class token and gradients."""

import re
from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl.model import Variables
from jtl.params import flatten, unflatten

SIZE = backbones.Size(width=24, depth=3, heads=4, hidden=40)
# What transformers' files call it -> what jtl calls it; blocks count from 0 there and from 1 here.
NAMES = (
    (r"embeddings\.cls_token", "class_token"),
    (r"embeddings\.position_embeddings", "position"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", "embed/{0}"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", "block{0}/attention/{1}/{2}"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", "block{0}/attention/out/{1}"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", "block{0}/norm1/{1}"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", "block{0}/norm2/{1}"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", "block{0}/mlp/up/{1}"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", "block{0}/mlp/down/{1}"),
    (r"layernorm\.(\w+)", "norm/{0}"),
)


def path(name: str) -> str:
    """The path of a tensor in a file of transformers' ViTModel."""
    for pattern, target in NAMES:
        if found := re.fullmatch(pattern, name):
            parts = [str(int(g) + 1) if g.isdigit() else g for g in found.groups()]
            if parts and parts[-1] == "weight":
                parts[-1] = "scale" if "norm" in target else "kernel"
            return target.format(*parts)
    raise KeyError(name)


def converted(tensors: dict) -> dict:
    """Tensors by transformers' names as parameters: matrices from [out, in], kernels from OIHW."""

    def turned(a):
        return a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T if a.ndim == 2 else a

    return unflatten({path(name): turned(np.asarray(a)) for name, a in tensors.items()})


@pytest.fixture(params=["float32", "float64"])
def reference(request, tmp_path):
    """A small randomised ViTModel, its tensors by the names in its files, and its gradients so."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=SIZE.width,
        num_hidden_layers=SIZE.depth,
        num_attention_heads=SIZE.heads,
        intermediate_size=SIZE.hidden,
        image_size=12,
        patch_size=4,
    )
    net = transformers.ViTModel(config, add_pooling_layer=False).to(getattr(torch, request.param)).eval()
    for tensor in net.state_dict().values():
        tensor.add_(0.3 * torch.randn_like(tensor))

    def saved(name):
        net.save_pretrained(tmp_path / name)
        return load_file(tmp_path / name / "model.safetensors")

    def gradients():
        for tensor in net.parameters():
            tensor.data = tensor.grad
        return saved("gradients")

    return torch, net, request.param, saved("weights"), gradients


def test_is_transformers_vit(reference):
    torch, theirs, dtype, tensors, gradients = reference
    # float32: sums of up to 48 terms in another order through three blocks.
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(dtype)
    net = backbones.vit(SIZE, patch=4, image=12, eps=1e-12)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(jnp.asarray, converted(tensors))
        made = jax.eval_shape(net.init, jax.random.key(0), x)
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made.params)

        def loss(params):
            features, _ = net.apply(Variables(params, {}), x, train=False, key=None)
            return jnp.sin(features["last"]).sum(), features

        grads, features = jax.jit(jax.grad(loss, has_aux=True))(params)
    out = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy()), output_hidden_states=True)
    out.last_hidden_state.sin().sum().backward()
    wanted = {f"stage{i}": h for i, h in enumerate(out.hidden_states[1:], 1)}
    wanted |= {"last": out.last_hidden_state, "pooled": out.last_hidden_state[:, 0]}
    assert sorted(features) == sorted(wanted)
    for name, value in wanted.items():
        value = value.detach().numpy()
        atol = tolerance * np.abs(value).max()
        np.testing.assert_allclose(features[name], value, rtol=tolerance, atol=atol, err_msg=name)
    if dtype == "float64":
        ours, theirs = flatten(grads), flatten(converted(gradients()))
        for name, value in theirs.items():
            # A key's bias moves no softmax: its gradient is 0 but for rounding.
            atol = 1e-10 * max(np.abs(value).max(), 1)
            np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=atol, err_msg=name)


# Parameters of timm's vit_{tiny,small,base,large}_patch16_224 less their last layer, 1000 (width + 1).
@pytest.mark.parametrize(
    ("size", "total", "width"),
    [("Ti", 5_717_416, 192), ("S", 22_050_664, 384), ("B", 86_567_656, 768), ("L", 304_326_632, 1024)],
)
def test_sizes_are_the_published_ones(key, size, total, width):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    made = jax.eval_shape(backbones.vit(size).init, key, x)
    assert sum(a.size for a in jax.tree.leaves(made.params)) == total - 1000 * (width + 1)


def test_drop_path_drops_whole_examples_and_never_the_first_block(key):
    x = np.random.default_rng(0).normal(size=(64, 4, 4, 1)).astype(np.float32)
    size = backbones.Size(8, 2, 2, 8)
    net = backbones.vit(size, patch=4, image=4, drop_path=0.5)
    v = jax.tree.map(lambda a: a + 0.3, net.init(key, x))
    kept, dropped = (net.apply(v, x, train=train, key=key)[0] for train in (False, True))
    np.testing.assert_array_equal(kept["stage1"], dropped["stage1"])
    unchanged = (np.asarray(dropped["stage2"]) == np.asarray(dropped["stage1"])).all((1, 2))
    # Both branches of an example drop with probability 1/4: 16 of 64, with a deviation of 3.5.
    assert 3 <= unchanged.sum() <= 29
    same = net.apply(v, x, train=True, key=key)[0]["last"]
    np.testing.assert_array_equal(same, dropped["last"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: unwrap(backbones.vit)("XL"), "size='XL'.*'Ti', 'S', 'B', 'L'"),
        (lambda: unwrap(backbones.deit)("S", pool="mean"), r"pool='mean': give one of \['tokens', 'token'\]"),
        (lambda: unwrap(backbones.dinov2)("S", pool="max"), r"pool='max': give one of \['token\+mean', 'token'\]"),
        (lambda: backbones.vit("Ti", patch=16, image=100), "image=100.*patch=16"),
        (lambda: backbones.vit(backbones.Size(10, 1, 3, 4)), "width=10.*heads=3"),
        (lambda: backbones.vit("Ti", drop_path=1.0), "drop_path=1.0"),
        (
            lambda: backbones.vit("Ti", image=32).init(jax.random.key(0), np.ones((1, 28, 28, 3), np.float32)),
            "28x28.*32x32",
        ),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_gradients_cost_is_linear_in_the_depth(key):
    """In compiled FLOPs, which count what fusions compute again: the sum of a residual stream's gradients, if let."""

    def flops(depth):
        net = backbones.vit(backbones.Size(16, depth, 2, 32), image=16, patch=4)
        x = jnp.ones((4, 16, 16, 3))
        made = jax.eval_shape(net.init, key, x)

        def loss(params):
            return net.apply(made._replace(params=params), x, train=True, key=key)[0]["pooled"].sum()

        return jax.jit(jax.grad(loss)).lower(made.params).compile().cost_analysis()["flops"]

    two, four, eight = map(flops, (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.02)
