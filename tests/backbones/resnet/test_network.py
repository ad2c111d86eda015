"""ResNet against transformers' on randomised weights: every stage, training statistics and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl.model import Variables
from jtl.params import flatten, unflatten

# What transformers calls it -> what jtl calls it; stages and layers count from 0 there and from 1 here.
NAMES = (
    (r"embedder\.embedder\.convolution\.weight", "params/stem/conv/kernel"),
    (r"embedder\.embedder\.normalization\.(\w+)", r"{0}/stem/norm/{1}"),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.weight",
        "params/stage{1}/block{2}/conv{3}/kernel",
    ),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.(\w+)",
        "{0}/stage{1}/block{2}/norm{3}/{4}",
    ),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.weight",
        "params/stage{1}/block{2}/shortcut/conv/kernel",
    ),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.(\w+)",
        "{0}/stage{1}/block{2}/shortcut/norm/{3}",
    ),
)
LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def path(name: str) -> str:
    """The path of a tensor of transformers' ResNetModel."""
    for pattern, target in NAMES:
        if found := re.fullmatch(pattern, name):
            parts = [str(int(g) + 1) if g.isdigit() else LEAVES[g] for g in found.groups()]
            return target.format("stats" if parts and parts[-1] in ("mean", "var") else "params", *parts)
    raise KeyError(name)


def converted(tensors: dict) -> Variables:
    """Torch tensors by transformers' names as variables: kernels go from OIHW to HWIO."""
    flat = {}
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            a = tensor.detach().numpy().copy()
            flat[path(name)] = a.transpose(2, 3, 1, 0) if a.ndim == 4 else a
    tree = unflatten(flat)
    return Variables(tree["params"], tree.get("stats", {}))


def same(ours, theirs, tolerance):
    ours, theirs = flatten(ours), flatten(theirs)
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def reference(kind: str, dtype: str):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    width = 8
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width * 2**i * (4 if kind == "bottleneck" else 1) for i in range(3)],
        depths=[2, 1, 2],
        layer_type=kind,
    )
    net = transformers.ResNetModel(config).to(getattr(torch, dtype))
    # A fresh network has gammas of 1 and betas of 0, which would hide a mistake.
    for name, tensor in net.state_dict().items():
        if "normalization" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
            if name.endswith(("bias", "running_mean")):
                tensor.sub_(1)
    return torch, net


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
# float32: 20 layers of sums of up to 1152 terms in another order. float64 leaves no room for anything else.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_is_transformers_resnet(kind, dtype, tolerance, train):
    torch, theirs = reference(kind, dtype)
    x = np.random.default_rng(0).normal(size=(4, 45, 39, 3)).astype(dtype)
    net = backbones.resnet((2, 1, 2), bottleneck=kind == "bottleneck", width=8)
    with jax.enable_x64(dtype == "float64"):
        v = jax.tree.map(jnp.asarray, converted(theirs.state_dict()))
        made = jax.eval_shape(net.init, jax.random.key(0), x)
        assert jax.tree.map(jnp.shape, v) == jax.tree.map(jnp.shape, made)

        def loss(params):
            features, stats = net.apply(Variables(params, v.stats), x, train=train, key=None)
            # Odd in the features, so that no mirrored sign goes unseen.
            return jnp.sin(features["pooled"]).sum(), (features, stats)

        grads, (features, stats) = jax.jit(jax.grad(loss, has_aux=True))(v.params)
    theirs.train(train)
    out = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy()), output_hidden_states=True)
    pooled = out.pooler_output[:, :, 0, 0]
    pooled.sin().sum().backward()
    maps = {f"stage{i}": h.detach().permute(0, 2, 3, 1).numpy() for i, h in enumerate(out.hidden_states[1:], 1)}
    wanted = {**maps, "last": maps["stage3"], "pooled": pooled.detach().numpy()}
    same(features, wanted, tolerance)
    same(stats, converted(theirs.state_dict()).stats, tolerance)
    if dtype == "float64":
        gradients = {n: p.grad for n, p in theirs.named_parameters()}
        same(grads, converted(gradients).params, tolerance)


# Parameters of the published networks (torchvision's tables) less their last layer, 1000 (c + 1).
@pytest.mark.parametrize(
    ("depth", "total", "width"),
    [
        (18, 11_689_512, 512),
        (34, 21_797_672, 512),
        (50, 25_557_032, 2048),
        (101, 44_549_160, 2048),
        (152, 60_192_808, 2048),
    ],
)
def test_sizes_are_the_published_ones(key, depth, total, width):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    net = backbones.resnet(depth)
    made = jax.eval_shape(net.init, key, x)
    assert sum(a.size for a in jax.tree.leaves(made.params)) == total - 1000 * (width + 1)
    features = jax.eval_shape(lambda v, x: net.apply(v, x, train=False, key=None)[0], made, x)
    assert features["last"].shape == (1, 7, 7, width)
    assert features["pooled"].shape == (1, width)


def test_cifar_stem_keeps_the_resolution(key):
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    net = backbones.resnet18(stem="cifar")
    made = jax.eval_shape(net.init, key, x)
    assert made.params["stem"]["conv"]["kernel"].shape == (3, 3, 3, 64)
    features = jax.eval_shape(lambda v, x: net.apply(v, x, train=False, key=None)[0], made, x)
    shapes = {name: f.shape[1:] for name, f in features.items()}
    assert shapes == {
        "stage1": (32, 32, 64),
        "stage2": (16, 16, 128),
        "stage3": (8, 8, 256),
        "stage4": (4, 4, 512),
        "last": (4, 4, 512),
        "pooled": (512,),
    }


def test_zero_init_makes_the_residual_branches_silent(key):
    """Without branches a stage of stride 1 is the identity on what the stem's ReLU lets through."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for zero_init in (True, False):
        one, two = (backbones.resnet((n,), width=4, stem="cifar", zero_init=zero_init) for n in (1, 2))
        v = two.init(key, x)
        first = {**v.params, "stage1": {"block1": v.params["stage1"]["block1"]}}
        stats = {**v.stats, "stage1": {"block1": v.stats["stage1"]["block1"]}}
        short = one.apply(Variables(first, stats), x, train=True, key=None)[0]["last"]
        long = two.apply(v, x, train=True, key=None)[0]["last"]
        assert np.array_equal(short, long) is zero_init


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: backbones.resnet(20), "depth=20.*18, 26, 34, 50, 101, 152, 200"),
        (lambda: backbones.resnet((2, 0)), r"depth=\(2, 0\)"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("train", [False, True])
def test_a_block_costs_the_same_wherever_it_stands(train):
    """On a CPU XLA otherwise sums up the stage's blocks before it anew: a sixth of a ResNet-50's forward pass."""
    images = jnp.ones((2, 32, 32, 3))

    def operations(depth):
        net = backbones.resnet((depth,), width=8, bottleneck=True)
        init = jax.jit(net.init)(jax.random.key(0), images)

        def of(params):
            return net.apply(Variables(params, init.stats), images, train=train)[0]["pooled"].sum()

        return jax.jit(jax.grad(of) if train else of).lower(init.params).compile().cost_analysis()["flops"]

    three, four, five = map(operations, (3, 4, 5))
    assert five - four == four - three
