"""A fine-tuned network as files that PyTorch users load."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jtl.model import Variables
from jtl.weights.families import FAMILIES
from jtl.weights.invert import export
from jtl.weights.load import Pretrained
from jtl.weights.preprocessing import to_transformers
from jtl.weights.read import NAMES

FORMATS = ("hf",)


def save(
    directory: str | Path,
    pretrained: Pretrained,
    variables: Variables | None = None,
    *,
    format: Literal["hf"] = "hf",
) -> None:
    """Writes a network so that transformers' `from_pretrained(directory)` gives the same outputs.

    The folder then holds `model.safetensors`, `config.json` with the labels and, where it is known,
    `preprocessor_config.json`; `jtl.load(directory)` reads it too.

    Args:
      directory: made where it is not there; an earlier save in it is replaced.
      pretrained: what `jtl.load` gave.
      variables: what training made of its variables; None for those it came with.
      format: "hf", the files of transformers.

    Raises:
      ValueError: transformers has no such network, there is no head, or the labels do not fit it.
      WeightNameError: a parameter has no name in that format.
      FileExistsError: the folder holds other weights, which would be read in place of these.
    """
    family = FAMILIES[pretrained.config["model_type"]]
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: give one of {FORMATS}")
    if family.architecture is None:
        raise ValueError(f"transformers has no network of the family {pretrained.config['model_type']!r}")
    params, stats = pretrained.variables if variables is None else variables
    if not params["head"]:
        raise ValueError("the parameters have no head; load with classes= and reinit=('head/.*',) for a new one")
    tensors = export({**params, "stats": stats}, family.tables(pretrained.config)["transformers"])
    # PyTorch counts the batches of a normalisation but computes nothing from the count.
    names = [name for name in tensors if name.endswith("running_mean")]
    tensors |= {name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for name in names}
    _write(Path(directory), tensors, _config(pretrained, params, family.architecture), pretrained)


def _config(pretrained: Pretrained, params: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    kernel = params["head"]["out"]["kernel"]
    count, labels = kernel.shape[-1], pretrained.labels
    if labels is None:
        labels = tuple(f"LABEL_{i}" for i in range(count))
    if len(labels) != count:
        raise ValueError(f"{len(labels)} labels for a head of {count} classes: {labels[:5]}")
    config = {k: v for k, v in pretrained.config.items() if k not in ("num_labels", "torch_dtype")}
    return config | {
        "architectures": [architecture],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "dtype": np.dtype(kernel.dtype).name,
    }


def _write(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], pretrained: Pretrained) -> None:
    from safetensors.numpy import save_file

    others = [name for name in NAMES if name != "model.safetensors" and (folder / name).exists()]
    if others:
        raise FileExistsError(f"{folder} holds {', '.join(others)}, other weights; give another folder or remove them")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"config.json": config}
    if pretrained.preprocessing is not None:
        texts["preprocessor_config.json"] = to_transformers(pretrained.preprocessing)
    # First everything under other names: a full disk leaves an earlier save as it was.
    save_file(tensors, folder / "model.safetensors.partial", metadata={"format": "pt"})
    for name, text in texts.items():
        (folder / f"{name}.partial").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    for name in ("model.safetensors", *texts):
        os.replace(folder / f"{name}.partial", folder / name)
