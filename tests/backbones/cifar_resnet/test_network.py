"""The CIFAR ResNet against a plain torch network of the paper's description, on randomised weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_resnets import cifar_resnet as reference
from torch_resnets import randomise

from jtl import backbones
from jtl.backbones.cifar_resnet.names import akamaster
from jtl.model import Variables
from jtl.params import flatten
from jtl.weights import convert


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
# float32: 14 layers of sums of up to 144 terms in another order. float64 leaves no room for anything else.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_is_the_papers_network(dtype, tolerance, train):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    theirs = randomise(reference(14, width=4, classes=3)).to(getattr(torch, dtype)).train(train)
    x = np.random.default_rng(0).normal(size=(3, 13, 16, 3)).astype(dtype)
    net = backbones.cifar_resnet(14, width=4)
    with jax.enable_x64(dtype == "float64"):
        made = jax.eval_shape(net.init, jax.random.key(0), x)

        def converted(tensors):
            shapes = {"backbone": made.params, "stats": {"backbone": made.stats}}
            shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), shapes)
            held = {n: t.detach().numpy().copy() for n, t in tensors.items() if "linear" not in n}
            asked = () if any("running" in n for n in held) else ("stats/.*",)
            tree, _ = convert(held, akamaster(), shapes, reinit=asked)
            return tree

        tree = jax.tree.map(jnp.asarray, converted(theirs.state_dict()))
        v = Variables(tree["backbone"], tree["stats"]["backbone"])

        def loss(params):
            features, stats = net.apply(Variables(params, v.stats), x, train=train, key=None)
            # Odd in the features, so that no mirrored sign goes unseen.
            return jnp.sin(features["pooled"]).sum(), (features, stats)

        grads, (features, stats) = jax.jit(jax.grad(loss, has_aux=True))(v.params)
    maps = theirs.features(torch.tensor(x.transpose(0, 3, 1, 2).copy()))
    maps["pooled"].sin().sum().backward()
    wanted = {n: m.detach().movedim(1, -1).numpy() for n, m in maps.items()}
    same(features, wanted | {"last": wanted["stage3"]}, tolerance)
    same(stats, converted(theirs.state_dict())["stats"]["backbone"], tolerance)
    if dtype == "float64":
        same(
            grads, converted({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})["backbone"], 1e-10
        )


def same(ours, theirs, tolerance):
    ours, theirs = flatten(ours), flatten(theirs)
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, atol=tolerance * scale, err_msg=name)


# Parameters in the table of the paper's section 4.2, in millions, with the last layer's 650.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_the_published_ones(key, depth, millions):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    made = jax.eval_shape(backbones.cifar_resnet(depth).init, key, x)
    total = sum(a.size for a in jax.tree.leaves(made.params)) + 650
    assert round(total / 1e6, 1 if millions > 1 else 2) == millions


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: backbones.cifar_resnet(18), r"depth=18: give 6n \+ 2"),
        (lambda: backbones.cifar_resnet(20, width=3), "width=3: give an even number"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("train", [False, True])
def test_a_block_costs_the_same_wherever_it_stands(train):
    """As in `test_resnet.py`; of 20 layers a stage has three blocks."""
    images = jnp.ones((1, 16, 16, 3))

    def operations(depth):
        net = backbones.cifar_resnet(depth, width=4)
        init = jax.jit(net.init)(jax.random.key(0), images)

        def of(params):
            return net.apply(Variables(params, init.stats), images, train=train)[0]["pooled"].sum()

        return jax.jit(jax.grad(of) if train else of).lower(init.params).compile().cost_analysis()["flops"]

    three, four, five = map(operations, (20, 26, 32))
    assert five - four == four - three
