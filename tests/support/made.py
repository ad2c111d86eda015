"""Small networks with random weights as folders, written without any other library."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from jtl import cli
from jtl.backbones.registry import FAMILIES
from jtl.networks import network
from jtl.params import flatten, unflatten
from jtl.weights import export

VIT = {
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
}
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 2], "layer_type": "basic"}
BERT = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 12,
    "max_position_embeddings": 16,
}
WAVES = {
    "model_type": "wav2vec2",
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 1,
    "intermediate_size": 20,
    "conv_dim": [16, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 6,
}
MOBILENET_V2 = {"model_type": "mobilenet_v2", "depth_multiplier": 0.05}


def tensors(config: dict[str, Any], naming: str = "transformers", classes: int = 3, seed: int = 0) -> dict[str, Any]:
    """A file's tensors by the names of `naming`, every one random."""
    family = FAMILIES[config["model_type"]]
    config = family.complete(config, naming)
    backbone, head = family.backbone(config), family.head(config, classes)
    made = network(backbone=backbone, head=head).init
    shapes = jax.eval_shape(made, jax.random.key(0), family.example(config))
    draw = np.random.default_rng(seed)
    tree = {**shapes.params, "stats": shapes.stats}
    drawn = {p: draw.random(leaf.shape, np.float32) + 0.5 for p, leaf in flatten(tree).items()}
    held = export(unflatten(drawn), family.tables(config)[naming])
    means = [name for name in held if name.endswith("running_mean")]
    return held | {name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for name in means}


def folder(path: Path, config: dict[str, Any], naming: str = "transformers", **options: Any) -> Path:
    """`model.safetensors` and `config.json` in `path`."""
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors(config, naming, **options), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    return path


def of_sounds(path: Path) -> Path:
    """A network of waves at 16 kHz, with its preprocessing."""
    words = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}
    folder(path, WAVES)
    (path / "preprocessor_config.json").write_text(json.dumps(words | {"return_attention_mask": False}))
    return path


def of_texts(path: Path, words: Sequence[str], tokens: int = 160) -> Path:
    """An encoder of texts with a vocabulary of these words, at most seven."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder(path, BERT | {"max_position_embeddings": tokens})
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return path


def tones(path: Path, hertz: int, names: Sequence[str], seed: int = 0) -> None:
    """Short files of one tone and noise in a folder, four of each name; needs soundfile."""
    import soundfile

    draw = np.random.default_rng(seed)
    path.mkdir(parents=True)
    for name in names:
        for i in range(4):
            time = np.arange(600 + 50 * i) / 16000
            wave = 0.5 * np.sin(2 * np.pi * hertz * time) + 0.05 * draw.normal(size=len(time))
            soundfile.write(path / f"{name}_{i}.wav", wave, 16000)


def listed_photos(root: Path) -> None:
    """Photos of two classes in `photos/` and `photos.csv`; a network without classes in `bare`, with them in `few`."""
    for i, name in enumerate(("ants", "bees")):
        (root / "photos" / name).mkdir(parents=True)
        for k in range(2):
            row = np.random.default_rng(2 * i + k).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(row).save(root / "photos" / name / f"{k}.png")
    paths = sorted((root / "photos").glob("*/*"))
    lines = "".join(f"{path.relative_to(root)},{path.parent.name}\n" for path in paths)
    (root / "photos.csv").write_text(f"file,label\n{lines}")
    folder(root / "bare", VIT)
    words = ["adapt-few", str(root / "bare"), "--support", str(root / "photos"), "--out", str(root / "few")]
    assert cli.main(words) == 0


def files(path: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def blobs(examples=60, width=5, classes=3, seed=0):
    """Features [examples, width] around one centre a class, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, examples)
    centres = rng.normal(size=(classes, width))
    return (centres[y] + rng.normal(size=(examples, width))).astype(np.float32), y
