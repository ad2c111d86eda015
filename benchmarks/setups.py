"""The work that is measured: a family of methods on a backbone, with its networks, a batch and jtl's step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import backbones, heads
from jtl.methods.adapt import adapt
from jtl.methods.dann import dann, weight_schedule
from jtl.methods.features import features
from jtl.methods.finetune import finetune
from jtl.methods.maml import maml
from jtl.methods.rules import fixed_rate
from jtl.model import Model, Variables, init
from jtl.params import select
from jtl.train import Step, make_step

FAMILIES = ("finetune", "features", "dann", "maml")
CRITIC = (256, 256)
RUN = 1000
"""Steps of the run that DANN's schedule believes in."""


class Cell(NamedTuple):
    """One measurement.

    Args:
      family: one of `FAMILIES`.
      backbone: one of `NETWORKS`.
      batch: rows of a batch (of each domain for dann); for maml the number of tasks.
      image: side of the images.
      classes: of the head; the way of a task.
      dtype: what is computed in, "float32" or "bfloat16".
      shot: support images of a class (maml).
      query: query images of a class (maml).
      inner_steps: maml.
      microbatch: in how many parts the batch is gone through; for maml on a CPU, one a task.
      lr: of the optimizer.
    """

    family: str
    backbone: str
    batch: int
    image: int
    classes: int = 10
    dtype: str = "float32"
    shot: int = 1
    query: int = 15
    inner_steps: int = 1
    microbatch: int = 1
    lr: float = 1e-5


class Network(NamedTuple):
    """A backbone of images of some channels."""

    make: Callable[[int], Model]
    channels: int


NETWORKS = {
    "mlp": Network(lambda image: backbones.mlp((512, 512)), 1),
    "conv4": Network(lambda image: backbones.conv4(64), 1),
    "resnet18": Network(lambda image: backbones.resnet18(stem="cifar"), 3),
    "resnet50": Network(lambda image: backbones.resnet50(), 3),
    "vit_ti": Network(lambda image: backbones.vit("Ti", image=image), 3),
    "vit_s": Network(lambda image: backbones.vit("S", image=image), 3),
    "vit_b": Network(lambda image: backbones.vit("B", image=image), 3),
}
INNER_LR = 0.01


class Setup(NamedTuple):
    """A cell made real."""

    cell: Cell
    backbone: Model
    head: Model
    critic: Model
    variables: Variables
    batch: dict[str, Any]
    tx: optax.GradientTransformation
    step: Step

    @property
    def examples(self) -> int:
        """Images in a batch."""
        return sum(leaf.size for leaf in jax.tree.leaves(_labels(self.batch)))


def optimizer(lr: float) -> optax.GradientTransformation:
    """AdamW with its numbers written out, as torch is given them too."""
    return optax.adamw(lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2)


def build(cell: Cell) -> Setup:
    """Networks, random weights and a random batch of a cell, and jtl's step for it."""
    if cell.family not in FAMILIES or cell.backbone not in NETWORKS:
        raise ValueError(f"{cell.family} x {cell.backbone}: families are {FAMILIES}, backbones {tuple(NETWORKS)}")
    network = NETWORKS[cell.backbone]
    backbone, head, critic = network.make(cell.image), heads.linear(cell.classes), heads.mlp(1, CRITIC)
    parts = {"critic": critic} if cell.family == "dann" else {}
    example = jnp.zeros((2, cell.image, cell.image, network.channels))
    make = jax.jit(lambda key: init(key, example, backbone=backbone, head=head, **parts))
    tx = optimizer(cell.lr)
    options = {"microbatch": cell.microbatch, "dtype": None if cell.dtype == "float32" else jnp.dtype(cell.dtype)}
    objective: Any
    if cell.family == "finetune":
        objective = finetune(backbone, head)
    elif cell.family == "features":
        objective = features(backbone, head)
        options["trainable"] = select("head/.*")
    elif cell.family == "dann":
        objective = adapt(backbone, head, alignments=[dann(critic, weight_schedule(RUN))])
    else:
        objective = maml(finetune(backbone, head), fixed_rate(INNER_LR), steps=cell.inner_steps)
    step = make_step(objective, tx, **options)
    return Setup(cell, backbone, head, critic, make(jax.random.key(0)), make_batch(cell), tx, step)


def make_batch(cell: Cell) -> dict[str, Any]:
    """Random images, the same for the same cell."""
    rng = np.random.default_rng(0)
    channels = NETWORKS[cell.backbone].channels

    def rows(*lead):
        x = rng.normal(size=(*lead, cell.image, cell.image, channels)).astype(np.float32)
        return {"x": x, "y": rng.integers(cell.classes, size=lead).astype(np.int32)}

    def episodes(per_class):
        part = rows(cell.batch, cell.classes * per_class)
        part["y"][:] = np.repeat(np.arange(cell.classes, dtype=np.int32), per_class)
        return part

    if cell.family == "dann":
        return {"source": rows(cell.batch), "target": rows(cell.batch)}
    if cell.family == "maml":
        return {"support": episodes(cell.shot), "query": episodes(cell.query)}
    return rows(cell.batch)


def _labels(batch: Any) -> Any:
    return {name: part if name == "y" else _labels(part) for name, part in batch.items() if name != "x"}
