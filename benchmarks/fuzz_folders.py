"""The part of benchmarks/fuzz_weights.py that damages whole checkpoint folders, for `jtl.load` and the tokenizers."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fuzzing
import fuzzing_folders as folders
import jax
import numpy as np
import optax

from jtl import heads
from jtl._tracing.eval_shape import shapes
from jtl.model import Variables
from jtl.networks import network
from jtl.preprocess import tokenizers
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.step import make_step
from jtl.weights.mapping.export import export


def whole() -> dict[str, folders.Folder]:
    """Folders that load: of transformers, timm and jtl's runs, in one file and in several, with every kind of file."""
    made = {"orbax": _checkpoint()}
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


def _network(config: dict[str, Any], naming: str) -> tuple[Any, Any, Variables]:
    """Returns its family, the complete config, and zeros for variables."""
    family, found, *_ = recognise(None, config)
    full = family.complete(found, naming)

    def make(key: Any, x: Any) -> Variables:
        return network(backbone=family.backbone(full), head=heads.linear(2)).init(key, x)

    made = shapes(make, jax.random.key(0), family.example(full))
    return family, full, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), made)


def _tensors(config: dict[str, Any], naming: str) -> folders.Tensors:
    family, full, made = _network(config, naming)
    tree = {**made.params, "stats": made.stats}
    return {name: array.shape for name, array in export(tree, family.tables(full)[naming]).items()}


def _checkpoint() -> folders.Folder:
    """A checkpoint that a run saves."""
    _, _, variables = _network(folders.VIT, "transformers")
    step = make_step(lambda *_: None, optax.sgd(0.1))  # pyright: ignore[reportArgumentType]
    with tempfile.TemporaryDirectory() as run:
        saver = Checkpoints(run, recipe="")
        saver.save(step.init(jax.tree.map(jax.numpy.asarray, variables), jax.random.key(0)))
        saver.wait()
        return {str(p.relative_to(run)): p.read_bytes() for p in sorted(Path(run).rglob("*")) if p.is_file()}


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


def tokens(folder: Path) -> None:
    """Reads a tokenizer and tokenizes a text."""
    backend, _ = tokenizers.read(folder)
    backend.encode("hello you")


def cases(seed: int, count: int) -> Iterator[tuple[str, folders.Folder, Callable[[Path], Any]]]:
    """Yields labels, files, and functions that read them; the first are undamaged, and labelled so."""
    loaded = whole()
    every = {**loaded, **folders.TOKENIZERS}
    mutations = tuple(mutation for mutation in fuzzing.MUTATIONS if mutation is not fuzzing.program)
    readers = dict.fromkeys(loaded, load) | {"orbax": partial(load, arch=folders.VIT)}
    for name, files in every.items():
        yield f"whole {name}", files, readers.get(name, tokens)
    for label, name, files in folders.cases(every, seed, count, mutations):
        yield label, files, readers.get(name, tokens)


def write(folder: Path, files: folders.Folder) -> None:
    """Writes these files, and removes all others."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
