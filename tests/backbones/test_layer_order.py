"""Layer-wise decay groups parameters as timm does, in a process that holds timm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jtl._tracing.eval_shape import shapes
from jtl.optim import layer_decay, layer_order
from jtl.params import flatten, match, unflatten
from jtl.pretrained.recognise import recognise
from jtl.weights import export

VIT = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 4}
SWIN = {"embed_dim": 6, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3, "patch_size": 2, "img_size": 24}
CONVNEXT = {"depths": [1, 2, 1, 1], "dims": [4, 6, 6, 8]}
CASES = {
    "vit_tiny_patch16_224": (VIT, "block"),
    "vit_small_patch14_reg4_dinov2": (VIT, "block"),
    "swin_tiny_patch4_window7_224": (SWIN, "block"),
    "convnext_tiny": (CONVNEXT, "head"),
    "resnet18": ({"layers": [1, 2, 1, 1]}, "block"),
    "resnetv2_50x1_bit": ({"channels": [128, 128, 256, 128], "stem_chs": 32}, "block"),
}
SCRIPT = """
import json, sys, torch
register = torch.library.register_fake
torch.library.register_fake = lambda name, *a, **k: (
    (lambda f: f) if "torchvision::" in name else register(name, *a, **k))
import timm
from timm.models._manipulate import group_parameters
found = {}
for name, options in json.loads(sys.argv[1]).items():
    net = timm.create_model(name, num_classes=3, **options)
    layers = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    found[name] = {n: layers[n] for n, p in net.named_parameters()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def theirs():
    others = Path(sys.prefix) / "others"
    if not others.exists():
        pytest.skip("timm is not installed; `make test` does it")
    asked = json.dumps({name: options for name, (options, _) in CASES.items()})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, asked],
        env={**os.environ, "PYTHONPATH": str(others)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_layers_are_timms(theirs, name):
    options, top = CASES[name]
    family, config, *_ = recognise(None, {"architecture": name, "model_args": options})
    config = family.complete(config, "timm")
    made = shapes(family.backbone(config).init, jax.random.key(0), family.example(config))
    width = next(int(leaf.shape[-1]) for path, leaf in reversed(flatten(made.params).items()) if leaf.ndim)
    params = {"backbone": made.params, "head": {"out": {"kernel": np.ones((width, 3)), "bias": np.ones(3)}}}
    order = layer_order(params, top)
    rates = flatten(match(layer_decay(params, order, 0.5), params))
    layers = {path: np.full(leaf.shape, np.log2(rates[path]), np.float32) for path, leaf in flatten(params).items()}
    if "reg4" in name:  # timm's network has no position of the class token
        layers["backbone/position"][:, 0] = 0
    ours = export(unflatten(layers), family.tables(config)["timm"])
    wanted, last = theirs[name], max(theirs[name].values())
    compared = 0
    for path, layer in wanted.items():
        if path in ours and np.size(ours[path]):
            assert set(np.unique(ours[path])) == {layer - last}, path
            compared += 1
    assert compared > 0.9 * len(wanted)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="top='norm'"):
        layer_order({"backbone": {"block1": {"w": 0}}}, "norm")
    with pytest.raises(ValueError, match="has no 'block1'"):
        layer_order({"backbone": {"stage1": {"w": 0}}}, "block")


def test_all_parameters_of_a_tree_are_in_one_layer_each():
    tree = {
        "backbone": {
            "stem": {"w": 0},
            "stage1": {"block1": {"w": 0}},
            "stage2": {"down": {"w": 0}, "block1": {"w": 0}, "block2": {"w": 0}, "block10": {"w": 0}},
            "norm": {"w": 0},
        },
        "head": {"w": 0},
    }
    found = flatten(match(layer_decay(tree, layer_order(tree, "block"), 0.5), tree))
    wanted = {"stem/w": 5, "stage1/block1/w": 4, "stage2/down/w": 3, "stage2/block1/w": 3}
    wanted |= {"stage2/block2/w": 2, "stage2/block10/w": 1, "norm/w": 1}
    assert found == {f"backbone/{path}": 0.5**n for path, n in wanted.items()} | {"head/w": 1.0}
    assert flatten(match(layer_decay(tree, layer_order(tree, "head"), 0.5), tree))["backbone/norm/w"] == 1.0
