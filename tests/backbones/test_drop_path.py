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

RATE = 0.3
NETS = {
    "vit_tiny_patch16_224": (backbones.vit("Ti", drop_path=RATE), 224),
    "swin_tiny_patch4_window7_224": (backbones.swin("T", drop_path=RATE), 224),
    "convnext_tiny": (backbones.convnext("T", drop_path=RATE), 64),
    "efficientnet_b0": (backbones.efficientnet("b0", drop_path=RATE), 64),
    "efficientnet_b1": (backbones.efficientnet("b1", drop_path=RATE), 64),
    "tf_efficientnetv2_s": (backbones.efficientnet_v2("s", drop_path=RATE), 64),
    "resnetv2_50x1_bit": (backbones.bit(50, drop_path=RATE), 64),
    "resnet18": (backbones.resnet(18, drop_path=RATE), 64),
    "seresnet50": (backbones.resnet(50, squeeze=True, drop_path=RATE), 64),
    "resnet26d": (backbones.resnet(26, stem="deep", avg_down=True, drop_path=RATE), 64),
    "mobilenetv2_100": (backbones.mobilenet_v2(drop_path=RATE), 64),
    "mobilenetv2_110d": (backbones.mobilenet_v2(1.1, depth=1.2, drop_path=RATE), 64),
    "mobilenetv3_large_100": (backbones.mobilenet_v3("large", scaling="timm", drop_path=RATE), 64),
    "mobilenetv3_small_100": (backbones.mobilenet_v3("small", scaling="timm", drop_path=RATE), 64),
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
