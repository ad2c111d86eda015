"""ResNet under torchvision's names, which timm shares, in their file formats."""

import json

import jax
import pytest
from loading import channels_first, close, images
from safetensors.numpy import save_file

from jtl.methods.finetune.finetune import predictor
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from torch_references import hf_resnet

NAMES = {
    "conv1.weight": "resnet.embedder.embedder.convolution.weight",
    "bn1.running_var": "resnet.embedder.embedder.normalization.running_var",
    "layer1.0.conv2.weight": "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight",
    "layer2.0.downsample.0.weight": "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
    "layer2.0.downsample.1.bias": "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias",
    "layer2.1.bn2.running_mean": "resnet.encoder.stages.1.layers.1.layer.1.normalization.running_mean",
    "fc.weight": "classifier.1.weight",
}


@pytest.fixture(scope="module")
def state():
    """The same numbers by both libraries' names."""
    net = hf_resnet("basic", width=64, depths=(1, 2))
    theirs = net.state_dict()
    state = {}
    for name, tensor in theirs.items():
        parts = name.removeprefix("resnet.").split(".")
        leaf = parts[-1]
        if parts[0] == "embedder":
            new = {"convolution": "conv1", "normalization": "bn1"}[parts[2]]
        elif parts[0] == "classifier":
            new = "fc"
        else:
            stage, block = int(parts[2]) + 1, parts[4]
            kind = {"convolution": ("conv", "downsample.0"), "normalization": ("bn", "downsample.1")}[parts[-2]]
            new = f"layer{stage}.{block}." + (kind[1] if parts[5] == "shortcut" else f"{kind[0]}{int(parts[6]) + 1}")
        state[f"{new}.{leaf}"] = tensor
    assert all(torch.equal(state[ours], theirs[hf]) for ours, hf in NAMES.items())
    return net, state


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pth_file(state, wrapped, tmp_path):
    net, tensors = state
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in tensors.items()}} if wrapped else tensors, tmp_path / "x.pth"
    )
    check(load(tmp_path / "x.pth", arch={"architecture": "resnet18", "model_args": {"layers": [1, 2]}}), net)


def test_a_folder_of_timm(state, tmp_path):
    net, tensors = state
    save_file({n: t.numpy() for n, t in tensors.items()}, tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "num_classes": 5,
        "model_args": {"layers": [1, 2]},
        "pretrained_cfg": {
            "tag": "a1_in1k",
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path)
    check(loaded, net)
    # timm resizes the short side to floor(224 / 0.95).
    assert loaded.preprocessing[:3] == (235, 224, "bicubic")


def check(loaded, net):
    assert loaded.naming == "torchvision"
    x = images((33, 40))
    logits = jax.jit(predictor(loaded.network))(loaded.variables, x)
    with torch.no_grad():
        close(logits, net(channels_first(x)).logits, 1e-5, "logits")
