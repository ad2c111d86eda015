"""The Python blocks of a Markdown page as one program, and the files that the pages name."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

import jtl
from jtl import backbones, heads
from jtl.model import Model

BLOCK = re.compile(r"^```([\w{}-]+[^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SKIPPED = re.compile(r"<!-- not run: (.+?) -->\n+\Z")


class Block(NamedTuple):
    """A fenced block of a page: its language, text, first line's number, and why it is not run (empty: it is)."""

    language: str
    text: str
    line: int
    skipped: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page; `<!-- not run: reason -->` on the line before one leaves it out."""
    found = []
    for match in BLOCK.finditer(page):
        reason = SKIPPED.search(page[: match.start()])
        line = page.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, reason[1] if reason else ""))
    return found


def run(path: Path) -> int:
    """Runs the Python blocks of a page in one namespace, one after another, in the current folder.

    Returns:
      How many ran. A traceback names the page and its line.
    """
    names: dict = {"__name__": "page"}
    todo = [block for block in blocks(path.read_text()) if block.language == "python" and not block.skipped]
    for block in todo:
        exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), names)
    return len(todo)


def photos(root: Path, classes: tuple[str, ...] = ("ants", "bees"), each: int = 8) -> None:
    """Class folders `train` and `val` of small photos whose mean colour tells the class."""
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for i, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for n in range(each):
                pixels = draw.integers(0, 128, (40, 48, 3)) + 127 * (np.arange(3) == i)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")


def resnet(folder: Path) -> None:
    """A small ResNet with a preprocessing of 32 pixels, in transformers' format."""
    kind = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    images = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 32, "crop_pct": 1.0}
    _saved(
        folder,
        {"model_type": "resnet", **kind},
        backbones.resnet((1, 1, 1, 1), width=8, bottleneck=False),
        np.zeros((1, 32, 32, 3), np.float32),
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(images))


def bert(folder: Path) -> None:
    """A small BERT with a vocabulary of letters and a few words, in transformers' format."""
    kind = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "quiet", "triumph", "dull", "the", "film", "is", "!"]
    kind |= {"model_type": "bert", "vocab_size": len(words), "max_position_embeddings": 128}
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    size = backbones.Size(16, 2, 2, 24)
    body = backbones.bert(size, vocabulary=len(words), positions=128)
    ids = np.zeros((1, 4), np.int32)
    _saved(folder, kind, body, {"ids": ids, "mask": ids == 0, "types": ids})


def clip(folder: Path) -> None:
    """A small CLIP of photos of 32 pixels, which knows five words, each of them one token, in transformers' format."""
    folder.mkdir(parents=True)
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in ("a", "photo", "of", "ants", "bees")]
    merges = [("".join(parts[:i]), parts[i]) for parts in words for i in range(1, len(parts))]
    letters = sorted({letter for parts in words for letter in parts})
    names = dict.fromkeys([*letters, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"])
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    images = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "size": 32, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    end, size = len(names) - 1, backbones.Size(16, 1, 2, 24)
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    text = {**tower, "max_position_embeddings": 77, "vocab_size": end + 1, "eos_token_id": end}
    image = {**tower, "image_size": 32, "patch_size": 8}
    body = backbones.two_towers(
        backbones.clip_image(size, patch=8, image=32, projection=8),
        backbones.clip_text(size, vocabulary=end + 1, positions=77, end=end, projection=8),
    )
    config = {"model_type": "clip", "projection_dim": 8, "text_config": text, "vision_config": image}
    ids = np.zeros((1, 4), np.int32)
    x = {"image": np.zeros((1, 32, 32, 3), np.float32), "text": {"ids": ids, "mask": ids == 0}}
    _saved(folder, config, body, x, head=False)


def _saved(folder: Path, config: dict, body: Model, x: object, head: bool = True) -> None:
    """Writes random weights under jtl's own paths, which `jtl.load` reads for every family."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    parts = {"backbone": body, **({"head": heads.linear(2)} if head else {})}
    made = jtl.network(**parts).init(jax.random.key(0), x)
    tensors = {**made.params, "stats": made.stats} if made.stats else made.params
    save_file({name: np.asarray(leaf) for name, leaf in jtl.flatten(tensors).items()}, folder / "model.safetensors")


def workspace(root: Path) -> None:
    """What the pages name: photos, a ResNet, an encoder of texts, and a CLIP."""
    photos(root / "photos")
    resnet(root / "resnet-50")
    bert(root / "all-MiniLM-L6-v2")
    clip(root / "clip-vit-base-patch32")
