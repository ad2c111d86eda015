"""The part of benchmarks/fuzz_weights.py that damages whole checkpoint folders, for `jtl.load` and the tokenizers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzing
import fuzzing_folders as folders
import jax
import numpy as np

from jtl import heads
from jtl.data import vocabularies
from jtl.model import init
from jtl.shapes import shapes
from jtl.weights.invert import export
from jtl.weights.load import load
from jtl.weights.recognise import recognise


def whole() -> dict[str, folders.Folder]:
    """Folders that load: of transformers and timm, in one file and several, safetensors, PyTorch's and NumPy's."""
    made = {}
    for name, config, naming in [
        ("vit", folders.VIT, "transformers"),
        ("resnet", folders.RESNET, "transformers"),
        ("timm", folders.TIMM, "timm"),
        ("npz", folders.VIT, "original"),
    ]:
        tensors = _tensors(config, naming)
        files = {"config.json": folders.text(config)}
        if name == "resnet":
            files |= folders.halves(tensors)
        elif name == "timm":
            items = {n: (str(i), 0, list(s), _strides(s), int(np.prod(s))) for i, (n, s) in enumerate(tensors.items())}
            storages = {str(i): folders.numbers(int(np.prod(s))) for i, s in enumerate(tensors.values())}
            files["pytorch_model.bin"] = fuzzing.torch_zip(fuzzing.state_dict(**items), storages)
        elif name == "npz":
            arrays = {n: fuzzing.npy("'<f4'", str(s), folders.numbers(int(np.prod(s)))) for n, s in tensors.items()}
            files["x.npz"] = fuzzing.npz({f"{n}.npy": data for n, data in arrays.items()})
        else:
            files["model.safetensors"] = folders.safetensors(*folders.weights(tensors))
            files["preprocessor_config.json"] = folders.text(folders.IMAGES)
        made[name] = files
    return made


def _tensors(config: dict[str, Any], naming: str) -> folders.Tensors:
    family, found, *_ = recognise(None, config)
    full = family.complete(found, naming)
    make = lambda key, x: init(key, x, backbone=family.backbone(full), head=heads.linear(2))  # noqa: E731
    made = shapes(make, jax.random.key(0), family.example(full))
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), {**made.params, "stats": made.stats})
    return {name: array.shape for name, array in export(tree, family.tables(full)[naming]).items()}


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


def tokens(folder: Path) -> None:
    """Reads a tokenizer and cuts a text."""
    backend, _ = vocabularies.read(folder)
    backend.encode("hello you")


def cases(seed: int, count: int) -> Iterator[tuple[str, folders.Folder, Callable[[Path], Any]]]:
    """Labels, files, and what reads them; the first are whole, and labelled so."""
    loaded = whole()
    every = {**loaded, **folders.TOKENIZERS}
    mutations = tuple(mutation for mutation in fuzzing.MUTATIONS if mutation is not fuzzing.program)
    for name, files in every.items():
        yield f"whole {name}", files, load if name in loaded else tokens
    for label, name, files in folders.cases(every, seed, count, mutations):
        yield label, files, load if name in loaded else tokens


def write(folder: Path, files: folders.Folder) -> None:
    """Only these files."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
