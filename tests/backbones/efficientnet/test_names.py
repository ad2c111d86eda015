"""EfficientNet against transformers' on randomised weights, and by the names of torchvision and timm."""

import re

import jax
import numpy as np
import pytest
import torchvision_files
from loading import channels_first, close, images, renamed, same_bits, tree_of
from safetensors.numpy import load_file, save_file

from jtl.nn.conv_blocks import rounded
from jtl.pretrained.load import load
from jtl.pretrained.save import save

LISTS = {
    "in_channels": [32, 16, 24],
    "out_channels": [16, 24, 40],
    "kernel_sizes": [3, 5, 3],
    "strides": [1, 2, 2],
    "num_block_repeats": [1, 1, 1],
    "expand_ratios": [1, 3, 2],
}
# (width, depth, blocks that pad alike on each side, images)
CASES = {"even": (0.25, 1.0, [], (32, 48)), "odd": (0.3, 1.5, [2], (45, 39))}


@pytest.fixture(params=CASES)
def made(request):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    from hf_convnets import hf_efficientnet

    width, depth, alike, size = CASES[request.param]
    top = rounded(1280 * width)
    return hf_efficientnet(width, depth, hidden_dim=top, depthwise_padding=alike, **LISTS), images(size)


def theirs(net, x):
    out = net.efficientnet(x, output_hidden_states=True)
    halved = [i for i, block in enumerate(net.efficientnet.encoder.blocks) if block.depthwise_conv.stride == 2]
    maps = [out.hidden_states[i] for i in [*halved, -1]]
    found = {f"stage{i}": m for i, m in enumerate(maps, 1)}
    return found | {
        "last": out.last_hidden_state,
        "pooled": out.pooler_output,
        "logits": net.classifier(out.pooler_output),
    }


@pytest.mark.slow
@pytest.mark.compiling
def test_is_transformers_efficientnet(made, tmp_path):
    from conv_parity import check, hf_write

    net, x = made
    check(net, hf_write, lambda p, dtype: load(p, dtype=dtype), theirs, x, tmp_path)


def test_is_written_as_it_was_read(made, tmp_path):
    import transformers

    net, x = made
    net.save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    save(tmp_path / "out", loaded)
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("in", "out"))
    counters = {n for n in before if n.endswith("num_batches_tracked")}
    same_bits({n: a for n, a in after.items() if n not in counters}, {n: before[n] for n in before.keys() - counters})
    again, account = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    held, wanted = ({n: a for n, a in net.state_dict().items() if n not in counters} for net in (again, net))
    same_bits(held, wanted)
    # Not to the bit: torch's sums depend on where its memory lies.
    close(again.eval()(channels_first(x)).logits.detach(), net(channels_first(x)).logits.detach(), 1e-6, "logits")
    with pytest.raises(ValueError, match="torchvision has no network"):
        save(tmp_path / "other", loaded, format="torchvision")  # which would pad otherwise


ARCH = {
    "model_type": "efficientnet",
    "width_coefficient": 0.25,
    "depth_coefficient": 1.0,
    "hidden_dim": 320,
    "drop_connect_rate": 0.0,
    **LISTS,
    "in_channels": [32, 64, 24],  # torchvision adds where channels are equal, transformers but for a stage's first
    "out_channels": [64, 24, 40],
    "num_block_repeats": [1, 2, 1],
}


def of_torchvision():
    from torch_convnets import efficientnet

    return efficientnet([(1, 3, 1, 16, 1), (3, 5, 2, 8, 2), (2, 3, 2, 16, 1)], 8, 320, 1e-5)


@pytest.mark.slow
@pytest.mark.compiling
def test_is_torchvisions_efficientnet(tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    loaded = torchvision_files.check(of_torchvision(), ARCH, images((37, 42)), tmp_path)
    with pytest.raises(ValueError, match="transformers has no network"):
        save(tmp_path / "out", loaded)


def timm_name(name):
    """Of a tensor that torchvision names, in a network whose first stage alone does not expand."""
    ends = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.4.0": "conv_head", "features.4.1": "bn2"}
    layer, leaf = name.rsplit(".", 1)
    if layer in ends or layer == "classifier.1":
        return f"{ends.get(layer, 'classifier')}.{leaf}"
    found = re.fullmatch(r"features\.(\d)\.(\d)\.block\.(\d)\.(\w+)", layer)
    stage, block, part, which = int(found[1]) - 1, found[2], int(found[3]), found[4]
    inner = (["conv_dw bn1", "se", "conv_pw bn2"], ["conv_pw bn1", "conv_dw bn2", "se", "conv_pwl bn3"])[stage > 0][
        part
    ]
    if inner == "se":
        return f"blocks.{stage}.{block}.se.{'conv_reduce' if which == 'fc1' else 'conv_expand'}.{leaf}"
    return f"blocks.{stage}.{block}.{inner.split()[int(which)]}.{leaf}"


def test_the_names_of_timm(tmp_path):
    """The same tensors by timm's names are the same network, and go back bit by bit."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    state = of_torchvision().state_dict()
    torch.save(state, tmp_path / "vision.pth")
    held = {timm_name(name): tensor.numpy() for name, tensor in state.items()}
    assert len(held) == len(state)
    save_file(held, tmp_path / "timm.safetensors")
    loaded = load(tmp_path / "timm.safetensors", arch=ARCH)
    assert loaded.naming == "timm"
    jax.tree.map(np.testing.assert_array_equal, tree_of(loaded), tree_of(load(tmp_path / "vision.pth", arch=ARCH)))
    same_bits(renamed(loaded, "timm"), {n: a for n, a in held.items() if not n.endswith("num_batches_tracked")})


@pytest.mark.parametrize(
    ("name", "padding", "eps", "size"),
    [
        ("efficientnet_b0", "torch", 1e-5, 256),
        ("tf_efficientnet_b3", "same", 1e-3, 332),
    ],
)
def test_what_a_name_says(name, padding, eps, size):
    from jtl.backbones.registry import FAMILIES

    family = FAMILIES["efficientnet"]
    config = family.complete(family.named(name, {}), "timm")
    assert (config.padding, config.batch_norm_eps) == (padding, eps)
    assert family.usual(name, config).size == size
