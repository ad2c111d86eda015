"""What `jtl.load` tells those who give it the wrong thing: the thing, its value, and what would be right."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import heads
from jtl._tracing.eval_shape import shapes
from jtl.backbones.registry import FAMILIES
from jtl.networks import network
from jtl.pretrained.load import load
from jtl.weights import WeightFileError, WeightNameError, export

CONFIG = {
    "model_type": "vit",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 3,
    "image_size": 4,
    "patch_size": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    family = FAMILIES["vit"]
    config = family.complete(CONFIG, "transformers")

    def make(key, x):
        return network(backbone=family.backbone(config), head=heads.linear(3)).init(key, x)

    made = shapes(make, jax.random.key(0), family.example(config))
    tree = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), made.params)
    save_file(export(tree, family.tables(config)["transformers"]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"classes": 5}, WeightNameError, r"shape \(5,\), the file gives \(3,\)(.|\n)*by reinit=\('head/\.\*',\)"),
        (
            {"classes": 0},
            ValueError,
            "classes=0: give at least one; None keeps the file's head, and the features alone are",
        ),
        ({"classes": ()}, ValueError, r"classes=\(\): give at least one"),
        ({"classes": True}, TypeError, "classes=True: give a number or a tuple of names"),
        ({"image": 0}, ValueError, "image=0: give the side of the images in pixels"),
        ({"dtype": jnp.int32}, ValueError, "dtype=.*int32.*: give a floating type"),
        ({"dtype": "float33"}, ValueError, "dtype='float33': give a floating type"),
        (
            {"arch": {**CONFIG, "image_size": 8}},
            WeightNameError,
            "17, 4.*gives.*5, 4(.|\n)*arch= says which it was, image=",
        ),
        ({"arch": "resnet18"}, WeightNameError, "none of the 24 tensors .* has a name of .*`jtl inspect` tells"),
        ({"arch": {**CONFIG, "num_hidden_layers": 200}}, WeightNameError, "cannot be in a file of 24 tensors"),
    ],
)
def test_a_wrong_request(asked, error, words, folder):
    with pytest.raises(error, match=words):
        load(folder, **asked)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("google/vit-base-patch16-224", FileNotFoundError, "give a path, or 'hf:google/vit-base-patch16-224'"),
        ("absent.pth", FileNotFoundError, "give a path, or 'hf:org/name' or 'timm:name'"),
        ("resnet50.pth", FileNotFoundError, "give a path, or 'hf:org/name' or 'timm:name'"),
        (
            "resnet50.a1_in1k",
            FileNotFoundError,
            r"'resnet50.a1_in1k' is the name of a network, and no file: .*, or 'timm:resnet50.a1_in1k'",
        ),
        (
            "resnet18",
            FileNotFoundError,
            r"'timm:resnet18.TAG' of the Hub, .*; jtl.backbones.resnet18\(\) is one of random weights",
        ),
        ("alexnet", FileNotFoundError, r"arch='alexnet'\)(; .*)?$"),
        ("", ValueError, "source='': give a path, 'hf:org/name' or 'timm:name'"),
    ],
)
def test_a_name_that_is_no_path(source, error, words):
    with pytest.raises(error, match=words):
        load(source)


FILES = [
    ("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "LFS pointer.*git lfs pull"),
    ("pytorch_model.bin", b"\n<!DOCTYPE html><html lang='en'>", "is a web page; the download went wrong"),
    ("pytorch_model.bin", b"\xef\xbb\xbf<HTML>", "is a web page; the download went wrong"),
    (
        "pytorch_model.bin",
        b"<?xml version='1.0'?><Error>AccessDenied</Error>",
        "an XML answer of a server",
    ),
    ("model.safetensors", b"Entry not found", "is text: 'Entry not found'"),
    ("pytorch_model.bin", b'{"error": "Repository not found"}', "is no index of weights"),
    ("tf_model.h5", b"\x89HDF\r\n\x1a\n\0\0", "is an HDF5 file"),
    ("flax_model.msgpack", b"\x82\xa6params\x01", "is Flax's msgpack; take the model.safetensors"),
    ("model.gguf", b"GGUF\x03\0\0\0", "is a GGUF file of quantised weights"),
    ("model.onnx", b"\x08\x07\x12\x07pytorch", "is an ONNX graph; take the model.safetensors"),
    ("last.ckpt", b"\x80\x02}q\0.", "is a bare pickle, which may run any code"),
    ("model.ckpt.data-00000-of-00001", b"\0\x01\x02\x03", "a part of a TensorFlow checkpoint; take"),
]


@pytest.mark.parametrize(("name", "data", "words"), FILES)
def test_a_file_that_holds_no_weights(name, data, words, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightFileError, match=rf"{name}: .*{words}"):
        load(tmp_path / name, arch=CONFIG)


@pytest.mark.parametrize(("name", "data", "words"), [file for file in FILES if "model.bin" not in file[0]])
def test_a_folder_of_such_files(name, data, words, tmp_path):
    """What is there is named; of what has a known ending, it is said what it is and what to take."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises((FileNotFoundError, WeightFileError), match=name) as caught:
        load(tmp_path, arch=CONFIG)
    if not name.endswith((".safetensors", "last.ckpt")):
        assert f"{name} is " in str(caught.value)
        assert "take the model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("<html>", "is a web page"),
        ("Entry not found", "is text: 'Entry not found'"),
        ("{", "the JSON cannot be read"),
        ("[1]", "holds a list, not an object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_what_stands_beside_the_weights(name, text, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_text(text)
    with pytest.raises(WeightFileError, match=rf"{name}: .*{words}"):
        load(tmp_path)
