"""ViT under the names of timm and of Google's releases, which fuse and split attention's arrays."""

import numpy as np
import pytest
import scipy.ndimage
from loading import close, renamed, same_bits, tree_of
from safetensors.numpy import load_file

from jtl.params import flatten
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from torch_references import hf_vit


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    net = hf_vit(width=24, depth=2, heads=4)
    net.save_pretrained(folder)
    held = load_file(folder / "model.safetensors")
    return folder, held


ARCH = {
    "architecture": "vit_tiny_patch4_12",
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 40 / 24},
}


def timm(held):
    def block(i, name):
        return held[f"vit.encoder.layer.{i}.{name}"]

    found = {
        "cls_token": held["vit.embeddings.cls_token"],
        "pos_embed": held["vit.embeddings.position_embeddings"],
        "patch_embed.proj.weight": held["vit.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": held["vit.embeddings.patch_embeddings.projection.bias"],
    }
    for leaf in ("weight", "bias"):
        found[f"norm.{leaf}"] = held[f"vit.layernorm.{leaf}"]
        found[f"head.{leaf}"] = held[f"classifier.{leaf}"]
        for i in range(2):
            parts = [block(i, f"attention.attention.{p}.{leaf}") for p in ("query", "key", "value")]
            found[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(parts)
            for ours, hf in (
                ("attn.proj", "attention.output.dense"),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                found[f"blocks.{i}.{ours}.{leaf}"] = block(i, f"{hf}.{leaf}")
    return found


def original(held):
    """Kernels [in, out], those of attention with an axis for the heads: [D, H, D/H] and [H, D/H, D]."""

    def dense(name):
        return held[f"{name}.weight"].T, held[f"{name}.bias"]

    found = {
        "cls": held["vit.embeddings.cls_token"],
        "Transformer/posembed_input/pos_embedding": held["vit.embeddings.position_embeddings"],
        "embedding/kernel": held["vit.embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": held["vit.embeddings.patch_embeddings.projection.bias"],
        "Transformer/encoder_norm/scale": held["vit.layernorm.weight"],
        "Transformer/encoder_norm/bias": held["vit.layernorm.bias"],
    }
    found["head/kernel"], found["head/bias"] = dense("classifier")
    for i in range(2):
        there, here = f"Transformer/encoderblock_{i}", f"vit.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            w, b = dense(f"{here}.attention.attention.{part}")
            found[f"{there}/MultiHeadDotProductAttention_1/{part}/kernel"] = w.reshape(24, 4, 6)
            found[f"{there}/MultiHeadDotProductAttention_1/{part}/bias"] = b.reshape(4, 6)
        w, b = dense(f"{here}.attention.output.dense")
        found[f"{there}/MultiHeadDotProductAttention_1/out/kernel"] = w.reshape(4, 6, 24)
        found[f"{there}/MultiHeadDotProductAttention_1/out/bias"] = b
        for name, hf in (("Dense_0", "intermediate.dense"), ("Dense_1", "output.dense")):
            w, b = dense(f"{here}.{hf}")
            found[f"{there}/MlpBlock_3/{name}/kernel"], found[f"{there}/MlpBlock_3/{name}/bias"] = w, b
        for name, hf in (("LayerNorm_0", "layernorm_before"), ("LayerNorm_2", "layernorm_after")):
            found[f"{there}/{name}/scale"] = held[f"{here}.{hf}.weight"]
            found[f"{there}/{name}/bias"] = held[f"{here}.{hf}.bias"]
    return {n: np.ascontiguousarray(a) for n, a in found.items()}


@pytest.mark.parametrize("kind", ["timm", "original"])
def test_every_number_arrives_as_from_transformers(saved, kind, tmp_path):
    folder, held = saved
    tensors = {"timm": timm, "original": original}[kind](held)
    if kind == "timm":
        torch.save({n: torch.tensor(a) for n, a in tensors.items()}, tmp_path / "x.bin")
        file = tmp_path / "x.bin"
    else:
        file = tmp_path / "x.npz"
        np.savez(file, **tensors)
    loaded, same = load(file, arch=ARCH), load(folder)
    assert loaded.naming == kind
    assert loaded.config.layer_norm_eps == 1e-6
    assert same.config.layer_norm_eps == 1e-12
    same_bits(dict(flatten(tree_of(loaded))), dict(flatten(tree_of(same))))
    same_bits(renamed(loaded, kind), tensors)


@pytest.mark.parametrize("side", [2, 5])
def test_another_size_is_made_as_timm_has_it(saved, side, tmp_path):
    """timm's files are interpolated with antialias, which transformers' are not."""
    _, held = saved
    tensors = timm(held)
    torch.save({n: torch.tensor(a) for n, a in tensors.items()}, tmp_path / "x.bin")
    found = load(tmp_path / "x.bin", arch=ARCH, image=4 * side).variables.params["backbone"]["position"]
    square = torch.tensor(tensors["pos_embed"][:, 1:]).reshape(1, 3, 3, -1).permute(0, 3, 1, 2)
    made = torch.nn.functional.interpolate(square, size=(side, side), mode="bicubic", antialias=True)
    wanted = np.concatenate([tensors["pos_embed"][:, :1], made.permute(0, 2, 3, 1).reshape(1, side * side, -1)], 1)
    close(found, wanted, 1e-5, str(side))


@pytest.mark.parametrize("side", [1, 2, 5])
def test_another_size_of_the_original_is_scipys_zoom(saved, side, tmp_path):
    """As google-research/vision_transformer and big_vision resize what they load."""
    _, held = saved
    tensors = original(held)
    np.savez(tmp_path / "x.npz", **tensors)
    found = load(tmp_path / "x.npz", arch=ARCH, image=4 * side).variables.params["backbone"]["position"]
    old = tensors["Transformer/posembed_input/pos_embedding"]
    square = scipy.ndimage.zoom(old[0, 1:].reshape(3, 3, -1), (side / 3, side / 3, 1), order=1)
    close(found, np.concatenate([old[:, :1], square.reshape(1, side * side, -1)], 1), 1e-6, str(side))


def test_names_of_transformers_keep_its_epsilon_without_a_config(saved):
    folder, _ = saved
    loaded = load(folder / "model.safetensors", arch=ARCH)
    assert loaded.config.layer_norm_eps == 1e-12
    assert loaded.preprocessing[:3] == (13, 12, "bicubic")
