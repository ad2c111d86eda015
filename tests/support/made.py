"""Small networks with random weights as folders, written without any other library."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jtl import heads
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
MOBILENET_V2 = {"model_type": "mobilenet_v2", "depth_multiplier": 0.05}


def tensors(config: dict[str, Any], naming: str = "transformers", classes: int = 3, seed: int = 0) -> dict[str, Any]:
    """A file's tensors by the names of `naming`, every one random."""
    family = FAMILIES[config["model_type"]]
    config = family.complete(config, naming)
    backbone, head = family.backbone(config), heads.linear(classes)
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


def files(path: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}
