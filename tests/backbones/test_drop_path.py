"""The probabilities of stochastic depth, block by block, against timm's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jtl import backbones
from jtl.nn.layers import DropPath
from jtl.pretrained.recognise import recognise

RATE = 0.3
NETS = {
    "vit_tiny_patch16_224": (backbones.vit("Ti", drop_path=RATE), 224),
    "swin_tiny_patch4_window7_224": (backbones.swin("T", drop_path=RATE), 224),
    "convnext_tiny": (backbones.convnext("T", drop_path=RATE), 64),
    "efficientnet_b0": (backbones.efficientnet("b0", drop_path=RATE), 64),
    "tf_efficientnetv2_s": (backbones.efficientnet_v2("s", drop_path=RATE), 64),
    "resnetv2_50x1_bit": (backbones.bit(50, drop_path=RATE), 64),
    "resnet18": (backbones.resnet(18, drop_path=RATE), 64),
    "seresnet50": (backbones.resnet(50, squeeze=True, drop_path=RATE), 64),
    "resnet26d": (backbones.resnet(26, stem="deep", avg_down=True, drop_path=RATE), 64),
    "mobilenetv2_100": (backbones.mobilenet_v2(drop_path=RATE), 64),
    "mobilenetv2_110d": (backbones.mobilenet_v2(1.1, depth=1.2, drop_path=RATE), 64),
    "mobilenetv3_large_100": (backbones.mobilenet_v3("large", scaling="timm", drop_path=RATE), 64),
}
THEIRS = """
import json, sys, torch
known = torch.library.register_fake

def register_fake(name, *args, **kwargs):
    return (lambda f: f) if str(name).startswith("torchvision::") else known(name, *args, **kwargs)

torch.library.register_fake = register_fake
import timm
from timm.layers import DropPath
rate, names = json.loads(sys.argv[1])
found = {}
for name in names:
    with torch.device("meta"):
        made = timm.create_model(name, drop_path_rate=rate)
    blocks = [block for block in made.modules() if getattr(block, "has_skip", True)]  # others never call it
    found[name] = [one.drop_prob for block in blocks for one in block.children() if isinstance(one, DropPath)]
print(json.dumps(found))
"""


def ours(net, side):
    """The rates that are drawn with, in the order of the calls."""
    found = []

    def watch(run, args, kwargs, context):
        if isinstance(context.module, DropPath) and context.module.rate > 0:
            found.append(context.module.rate)
        return run(*args, **kwargs)

    def forward(key, x):
        with nn.intercept_methods(watch):
            return net.apply(net.init(key, x), x, train=True, key=key)[0]["pooled"]

    jax.eval_shape(forward, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    half = len(found) // 2 if found[: len(found) // 2] == found[len(found) // 2 :] else 0  # `init` calls them too
    return found[half:]


@pytest.mark.parametrize(
    ("net", "side", "expected"),
    [
        (backbones.resnet(10, width=8, drop_path=0.3), 32, [0.1, 0.2, 0.3]),
        # Of 17 blocks those with a skip: 3, 5, 6, 8, 9, 10, 12, 13, 15, 16.
        (backbones.mobilenet_v2(0.5, drop_path=0.34), 32, [0.02 * i for i in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)]),
        # Of 11 blocks and the last convolution: 3, 5, 6, 8, 10, 11.
        (backbones.mobilenet_v3("small", drop_path=0.12), 32, [0.01 * i for i in (2, 4, 5, 7, 9, 10)]),
    ],
    ids=["resnet", "mobilenet_v2", "mobilenet_v3"],
)
def test_the_probability_grows_from_block_to_block(net, side, expected):
    assert ours(net, side) == pytest.approx(expected)


def test_a_dropped_branch_leaves_the_shortcut_of_its_example():
    """The rates of the four blocks are 0, 0.33, 0.66 and 0.99; without the last branch an example is its shortcut."""
    net = backbones.resnet(10, width=4, stem="cifar", drop_path=0.99)
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    variables = net.init(jax.random.key(1), x)
    evaluated = jax.jit(lambda v: net.apply(v, x, train=False)[0]["pooled"])(variables)
    plain = backbones.resnet(10, width=4, stem="cifar")
    same = jax.jit(lambda v: plain.apply(v, x, train=False)[0]["pooled"])(variables)
    assert (evaluated == same).all()
    # Without its branch the last stage is relu(norm(conv(stage3))), whose statistics are of the whole batch.
    features = jax.jit(lambda v: net.apply(v, x, train=True, key=jax.random.key(2))[0])(variables)
    block = variables.params["stage4"]["block1"]
    kernel = block["shortcut"]["conv"]["kernel"][0, 0]
    short = features["stage3"][:, ::2, ::2] @ kernel
    short = (short - short.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(short.var((0, 1, 2), keepdims=True) + 1e-5)
    alone = jnp.abs(features["last"] - jnp.maximum(short, 0)).max((1, 2, 3)) < 1e-4
    assert int(alone.sum()) >= 5


@pytest.mark.parametrize(
    "made", [backbones.resnet18, backbones.mobilenet_v2, lambda **options: backbones.mobilenet_v3("small", **options)]
)
def test_a_probability_outside_its_range_raises(made):
    with pytest.raises(ValueError, match=r"drop_path=1\.0: must be a number in \[0, 1\)"):
        made(drop_path=1.0)


@pytest.mark.slow
@pytest.mark.compiling
def test_every_block_has_timms_probability():
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    others = Path(sys.prefix) / "others"
    if not others.exists():
        pytest.skip("timm is not installed; `make test` does it")
    asked = json.dumps([RATE, list(NETS)])
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", THEIRS, asked],
        env={**os.environ, "PYTHONPATH": str(others)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name, theirs in json.loads(told.stdout).items():
        assert ours(*NETS[name]) == pytest.approx(theirs, abs=1e-6), name


@pytest.mark.parametrize("name", ["resnet18", "seresnet18", "mobilenetv2_050", "mobilenetv3_small_050"])
def test_timms_word_reaches_the_network(name):
    rates, plain = (
        [*ours(found.family.backbone(found.family.complete(found.entries, "timm")), 64)]
        for found in (
            recognise(None, {"architecture": name, "model_args": {"drop_path_rate": 0.1}}),
            recognise(None, name),
        )
    )
    assert len(rates) > 3
    assert rates == sorted(rates)
    assert 0.08 < rates[-1] <= 0.1
    assert plain == []
