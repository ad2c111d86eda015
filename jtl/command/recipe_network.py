"""Uses of a recipe's checkpoint on one's own examples, and its export to other libraries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jtl.command.inference import labelled
from jtl.command.run_settings import one_column
from jtl.command.scores import Scores, scored
from jtl.command.settings import writable
from jtl.methods.finetune.finetune import predictor
from jtl.model import Variables
from jtl.paths import local
from jtl.pretrained.save import save
from jtl.recipes.parts.base import Network

BATCH = 64


def logits(network: Network, variables: Variables, items: Sequence[Any]) -> np.ndarray:
    """Computes the outputs [examples, classes] for files or texts."""
    run, found = jax.jit(predictor(network.net)), []
    for start in range(0, len(items), BATCH):
        rows = [network.read(one) for one in items[start : start + BATCH]]
        found.append(np.asarray(run(variables, jax.tree.map(lambda *leaves: np.stack(leaves), *rows))))
    return np.concatenate(found)


def judge(
    network: Network,
    variables: Variables,
    data: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    file: str | None = None,
) -> Scores:
    """Scores the network on labelled data, matched by class names; if the data are split, on `test/`, else `val/`.

    Args:
      network: the recipe's network.
      variables: those of a checkpoint.
      data: a folder or a table.
      text: the column of texts in a table; None for "text".
      label: the column of labels; None for "label".
      file: the column of paths of images or sounds; None for folders, and for a table of texts.

    Raises:
      ValueError: for data of another kind or of other classes than the network's.
    """
    one_column(text, file)
    columns = {"text": text or "text", "label": label or "label", "file": file}
    examples = labelled(data, **columns, classes=network.classes)
    if (examples.kind == "texts") != network.texts:
        takes = "texts" if network.texts else "files; for a table of files, give --file COLUMN"
        raise ValueError(f"{str(data)!r} holds {examples.kind}, and the recipe's network takes {takes}")
    return scored(logits(network, variables, examples.items), examples.labels, examples.classes)


def export(
    network: Network, variables: Variables, out: Path, format: Literal["hf", "timm", "torchvision", "jtl"]
) -> None:
    """Writes the network in the file format of another library.

    Raises:
      ValueError: for a network that was built of parts and not loaded, which no format describes; or that this library
        does not have, naming the formats that work.
    """
    writable(local(out, "OUT"), "OUT")
    if network.loaded is None:
        raise ValueError(
            "the recipe's network is built of jtl's parts and belongs to no family of networks, so none of the formats"
            " hf, timm, torchvision and jtl can describe it. `jtl predict` and `jtl eval` take its checkpoints as they"
            " are, and in Python jtl.Checkpoints(folder).variables() returns its weights"
        )
    own = Variables({name: variables.params.get(name, {}) for name in ("backbone", "head")}, variables.stats)
    save(out, network.loaded._replace(labels=network.classes), own, format=format)
