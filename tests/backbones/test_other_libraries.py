"""timm and torchvision themselves: jtl reads their networks, and they load the files that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from loading import close, images, renamed, same_gradients
from running import forward
from safetensors.numpy import save_file

from jtl._tracing.eval_shape import shapes
from jtl.methods.finetune.finetune import predictor
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.pretrained.save import save
from jtl.weights import export

pytestmark = [pytest.mark.slow, pytest.mark.compiling]  # parity of networks that rarely change, in `make test-all`

SWIN = {"embed_dim": 6, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3, "patch_size": 2}
CONVNEXT = {"depths": [1, 2, 1, 1], "dims": [4, 6, 6, 8]}
BIT = {"channels": [128, 128, 256, 128], "stem_chs": 32}
VIT = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 4}
VGG = {"depths": [1, 2], "hidden_sizes": [4, 6], "batch_norm": True, "intermediate_size": 8}
EFFICIENTNET_V2 = {
    "stem_channels": 8,
    "block_types": ["conv", "fused", "inverted"],
    "expand_ratios": [1, 2, 3],
    "out_channels": [8, 16, 24],
    "num_block_repeats": [1, 2, 1],
    "strides": [1, 2, 2],
    "hidden_dim": 20,
}
RW = {"block_types": ["fused", "fused", "inverted"], "batch_norm_eps": 1e-5}
CASES = {
    "timm resnet": ({"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}}, (32, 33)),
    "timm resnet18d": ({"architecture": "resnet18d", "model_args": {"layers": [1, 1, 1, 1]}}, (37, 45)),
    "timm seresnext26t": ({"architecture": "seresnext26t_32x4d", "model_args": {"layers": [1, 1, 1, 1]}}, (37, 45)),
    "timm vit": ({"architecture": "vit_tiny_patch16_224", "model_args": VIT}, (12, 12)),
    "timm deit": ({"architecture": "deit_tiny_distilled_patch16_224", "model_args": VIT}, (12, 12)),
    "timm dinov2": ({"architecture": "vit_small_patch14_dinov2", "model_args": VIT}, (12, 12)),
    "timm dinov2_reg4": ({"architecture": "vit_small_patch14_reg4_dinov2", "model_args": VIT}, (12, 12)),
    "timm dinov2_giant": ({"architecture": "vit_giant_patch14_dinov2", "model_args": VIT}, (12, 12)),
    "timm deit3": ({"architecture": "deit3_small_patch16_224", "model_args": VIT}, (12, 12)),
    "timm clip": ({"architecture": "vit_base_patch32_clip_224", "model_args": VIT}, (12, 12)),
    "timm quickgelu": ({"architecture": "vit_base_patch32_clip_quickgelu_224", "model_args": VIT}, (12, 12)),
    "timm siglip": ({"architecture": "vit_base_patch16_siglip_224", "model_args": VIT}, (12, 12)),
    "timm siglip_tanh": ({"architecture": "vit_so400m_patch16_siglip_256", "model_args": VIT}, (12, 12)),
    "timm siglip_gap": ({"architecture": "vit_base_patch16_siglip_gap_224", "model_args": VIT}, (12, 12)),
    "timm swin": ({"architecture": "swin_tiny_patch4_window7_224", "model_args": {**SWIN, "img_size": 24}}, (24, 24)),
    "timm convnext": ({"architecture": "convnext_tiny", "model_args": CONVNEXT}, (64, 33)),
    "timm convnext_atto": ({"architecture": "convnext_atto", "model_args": CONVNEXT}, (64, 33)),
    "timm convnext_ols": (
        {"architecture": "convnext_atto_ols", "model_args": {**CONVNEXT, "dims": [40, 6, 6, 8]}},
        (64, 37),
    ),
    "timm convnext_hnf": ({"architecture": "convnext_tiny_hnf", "model_args": CONVNEXT}, (64, 33)),
    "timm convnext_mlp": ({"architecture": "convnext_large_mlp", "model_args": CONVNEXT}, (64, 33)),
    "timm bit": ({"architecture": "resnetv2_50x1_bit", "model_args": BIT}, (64, 49)),
    # Padded as TensorFlow does, by the size of each map: 45, 23, 12, 6, 3, 2 and 38, 19, 10, 5, 3, 2 pixels.
    "timm efficientnet": ({"architecture": "tf_efficientnet_b0"}, (45, 38)),
    "timm tf_efficientnetv2": ({"model_type": "efficientnet_v2", **EFFICIENTNET_V2, "padding": "same"}, (45, 38)),
    "timm efficientnetv2_rw": ({"model_type": "efficientnet_v2", **EFFICIENTNET_V2, **RW}, (23, 18)),
    "timm mobilenetv2_035": ({"architecture": "mobilenetv2_035"}, (64, 49)),
    "timm mobilenetv2_110d": ({"architecture": "mobilenetv2_110d"}, (64, 49)),
    "timm mobilenetv3": ({"architecture": "mobilenetv3_small_050"}, (48, 33)),
    "timm tf_mobilenetv3": ({"architecture": "tf_mobilenetv3_large_075"}, (45, 38)),
    "timm vgg": ({"model_type": "vgg", **VGG}, (28, 31)),
    "torchvision resnext": ({"architecture": "resnext50_32x4d", "model_args": {"layers": [1, 1, 1, 1]}}, (37, 45)),
    "torchvision swin": ({"architecture": "swin_t", "model_args": SWIN}, (22, 30)),
    "torchvision inception": ({"model_type": "inception_v3", "depth_multiplier": 1 / 16}, (96, 111)),
    "torchvision vgg": ({"model_type": "vgg", **VGG}, (40, 31)),
    "torchvision efficientnet_v2": ({"model_type": "efficientnet_v2", **EFFICIENTNET_V2}, (23, 18)),
    "torchvision mobilenet": ({"architecture": "mobilenet_v3_small", "model_args": {"width_mult": 0.25}}, (48, 33)),
}


@pytest.fixture(scope="module")
def ask():
    """`ask(do=..., ...)` of the process that holds both libraries."""
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    others = Path(sys.prefix) / "others"
    if not others.exists():
        pytest.skip("timm and torchvision are not installed; `make test` does it")
    script = Path(__file__).parents[1] / "support" / "other_libraries.py"
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(others)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(**request):
        sent, received = process.stdin, process.stdout
        assert sent is not None
        assert received is not None
        sent.write(json.dumps(request) + "\n")
        sent.flush()
        answer = json.loads(received.readline())
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    yield ask
    process.communicate()


@pytest.mark.parametrize("name", CASES)
def test_is_theirs_both_ways(ask, name, tmp_path):
    """Their file, and ours that they load with no name missing and none too many, give the same logits to 1e-5."""
    (arch, size), (library, _) = CASES[name], name.split()
    x = images(size)
    np.save(tmp_path / "x.npy", x)
    given = {"x": str(tmp_path / "x.npy"), "out": str(tmp_path / "logits.npy")}
    ask(do="make", name=name, file=str(tmp_path / "theirs.pth"), **given)
    wanted = np.load(tmp_path / "logits.npy")
    loaded = load(tmp_path / "theirs.pth", arch=arch)
    close(jax.jit(predictor(loaded.network))(loaded.variables, x), wanted, 1e-5, name)
    ours = tmp_path / "ours" / "model.safetensors"
    if "architecture" in arch:
        save(ours.parent, loaded, format=library)
    else:  # no network of theirs by a name: the tensors alone
        ours.parent.mkdir()
        state = renamed(loaded, library)
        means = [n for n in state if n.endswith("running_mean")]
        state |= {n.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for n in means}
        save_file(state, ours)
    ask(do="load", name=name, file=str(ours), **given)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), wanted)
    if library == "timm" and "architecture" in arch:
        ask(do="load_folder", folder=str(ours.parent), **given)
        np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), wanted)
        file, folder = str(tmp_path / "theirs.pth"), str(tmp_path / "written")
        ask(do="write_folder", name=name, file=file, folder=folder, args=arch.get("model_args", {}))
        jax.tree.map(np.testing.assert_array_equal, load(folder).variables, loaded.variables)


EXACT = ["timm dinov2", "timm dinov2_giant", "timm deit3", "timm quickgelu", "timm siglip", "timm siglip_gap"]


@pytest.mark.parametrize("name", EXACT)
def test_features_and_gradients_are_timms(ask, name, tmp_path):
    """In float64: features and logits to 1e-10, gradients to 1e-9."""
    arch, size = CASES[name]
    np.save(tmp_path / "x.npy", images(size))
    given = {"name": name, "x": str(tmp_path / "x.npy"), "file": str(tmp_path / "theirs.pth")}
    (tmp_path / "gradients").mkdir()
    (tmp_path / "gradients" / "config.json").write_text(json.dumps(arch))
    ask(do="make", out=str(tmp_path / "logits.npy"), **given)
    ask(do="exact", out=str(tmp_path / "wanted.npz"), folder=str(tmp_path / "gradients"), **given)
    with jax.enable_x64(True):
        loaded = load(tmp_path / "theirs.pth", arch=arch, dtype=np.float64)

        def loss(params, x):
            apply = forward(loaded.network, train=True)
            features, logits, _ = apply(loaded.variables._replace(params=params), x, jax.random.key(0))
            return jax.numpy.sin(logits).sum(), features | {"logits": logits}

        grads, found = jax.jit(jax.grad(loss, has_aux=True))(loaded.variables.params, images(size).astype(np.float64))
    with np.load(tmp_path / "wanted.npz") as wanted:
        assert sorted(wanted) == sorted(found)
        for feature, value in wanted.items():
            close(found[feature], value, 1e-10, feature)
    same_gradients(grads, tmp_path / "gradients")


RESIZED = ["timm vit", "timm deit", "timm dinov2_reg4", "timm deit3", "timm clip", "timm siglip"]


@pytest.mark.parametrize("name", RESIZED)
def test_another_size_of_images_is_timms(ask, name, tmp_path):
    """`image=` resizes the position embeddings as timm does, and leaves those of the tokens."""
    arch, size = CASES[name]
    for file, side in (("x", size), ("larger", (20, 20))):
        np.save(tmp_path / f"{file}.npy", images(side))
    given = {"out": str(tmp_path / "logits.npy")}
    ask(do="make", name=name, file=str(tmp_path / "theirs.pth"), x=str(tmp_path / "x.npy"), **given)
    save(tmp_path / "folder", load(tmp_path / "theirs.pth", arch=arch), format="timm")
    ask(do="load_folder", folder=str(tmp_path / "folder"), x=str(tmp_path / "larger.npy"), img_size=20, **given)
    loaded = load(tmp_path / "folder", image=20)
    logits = jax.jit(predictor(loaded.network))(loaded.variables, images((20, 20)))
    close(logits, np.load(tmp_path / "logits.npy"), 1e-5, name)


def test_the_original_files_of_bit_are_read_as_timm_reads_them(ask, tmp_path):
    """By the names of Google's release."""
    arch, size = CASES["timm bit"]
    x = images(size)
    np.save(tmp_path / "x.npy", x)
    given = {"name": "timm bit", "x": str(tmp_path / "x.npy"), "out": str(tmp_path / "logits.npy")}
    ask(do="make", file=str(tmp_path / "theirs.pth"), **given)
    state = renamed(load(tmp_path / "theirs.pth", arch=arch), "original")
    assert state["resnet/block1/unit02/b/standardized_conv2d/kernel"].shape == (3, 3, 32, 32)
    np.savez(tmp_path / "bit.npz", **state)
    loaded = load(tmp_path / "bit.npz", arch=arch)
    assert loaded.naming == "original"
    ask(do="load_original", file=str(tmp_path / "bit.npz"), **given)
    logits = jax.jit(predictor(loaded.network))(loaded.variables, x)
    close(logits, np.load(tmp_path / "logits.npy"), 1e-5, "logits")


WHOLE = [
    *(("torchvision", name) for name in ("alexnet", "vgg16_bn", "resnet50", "mobilenet_v2", "convnext_tiny")),
    *(("torchvision", name) for name in ("resnext50_32x4d", "wide_resnet50_2")),
    *(("timm", name) for name in ("resnext50_32x4d", "resnet26", "resnet50d", "resnet50c", "resnet50s", "resnet18d")),
    *(("timm", name) for name in ("resnet10t", "seresnet50", "seresnext101d_32x8d")),
    *(("timm", name) for name in ("swin_tiny_patch4_window7_224", "deit_tiny_patch16_224", "vgg16_bn", "densenet121")),
    *(("timm", f"deit_{size}_distilled_patch16_224") for size in ("tiny", "base")),
    *(("timm", name) for name in ("resnetv2_50x1_bit", "resnetv2_152x2_bit")),
    *(("timm", f"mobilenetv2_{name}") for name in ("050", "075", "120d", "140")),
    *(("timm", f"mobilenetv3_{name}") for name in ("large_075", "large_100", "small_075", "small_100")),
    ("torchvision", "efficientnet_v2_s"),
    *(("timm", f"convnext_{size}") for size in ("nano", "atto_ols", "nano_ols", "tiny_hnf", "large_mlp")),
    *(("timm", f"tf_efficientnetv2_{size}") for size in ("m", "b3")),
    *(("timm", f"efficientnetv2_rw_{size}") for size in ("t", "m")),
    *(("timm", name) for name in ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2")),
    ("timm", "vit_giant_patch14_reg4_dinov2"),
    *(("timm", name) for name in ("deit3_small_patch16_384", "deit3_medium_patch16_224")),
    *(("timm", f"vit_{name}_clip_224") for name in ("xsmall_patch16", "base_patch32")),
    ("timm", "vit_base_patch16_plus_clip_240"),
    *(("timm", f"vit_{name}") for name in ("base_patch32_siglip_256", "so400m_patch14_siglip_384")),
    ("timm", "vit_base_patch16_siglip_gap_512"),
]
NO_WEIGHTS = ("num_batches_tracked", "relative_position_index")


@pytest.mark.parametrize(("library", "name"), WHOLE)
def test_every_tensor_of_a_whole_network_has_their_name_and_shape(ask, library, name):
    family, config, *_ = recognise(None, name)
    config = family.complete(config, library)
    made = shapes(family.backbone(config).init, jax.random.key(0), family.example(config))
    tree = {"backbone": made.params, "stats": {"backbone": made.stats}}
    blank = jax.tree.map(lambda a: np.broadcast_to(np.int8(0), a.shape), tree)  # fused, a billion floats take seconds
    found = {n: list(a.shape) for n, a in export(blank, family.tables(config)[library]).items()}
    wanted = ask(do="shapes", library=library, name=name)
    head = {n for n in wanted if n not in found and not n.endswith(NO_WEIGHTS)}
    assert {n: s for n, s in wanted.items() if n in found} == found
    # What is left is the classifier, a kernel and a bias: none in DINOv2 and SigLIP, two in a distilled DeiT.
    count = 0 if "dinov2" in name or "siglip" in name else 2 if "distilled" in name else 1
    classes = 512 if "xsmall" in name else 640 if "plus_clip" in name else 1000
    assert [wanted[n][0] for n in head] == [classes] * 2 * count, head
