"""The measured work: a family of methods on a backbone, with its networks, a batch and jtl's step."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import backbones, heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.cdan import cdan
from jtl.methods.adapt.dann import dann, weight_schedule
from jtl.methods.adapt.mcd import mcd
from jtl.methods.adapt.mmd import mmd
from jtl.methods.adapt.test_time.norms import norms
from jtl.methods.adapt.test_time.tent import tent
from jtl.methods.finetune.features import features
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.maml import maml
from jtl.methods.meta.update_rules import fixed_rate
from jtl.model import Model, Variables
from jtl.networks import network as composed
from jtl.params import select
from jtl.train import Step, Turn, make_step

FAMILIES = ("finetune", "features", "dann", "maml")
ALIGNED = ("dann", "cdan", "mmd", "mcd")
"""Families whose batch has a source and a target."""
BESIDE_TORCH = (*FAMILIES, "cdan", "mmd", "mcd", "tent")
"""The families for which `against_torch` has a torch loop."""
CRITIC = (256, 256)
CLOSE = 4
"""The number of updates of MCD's backbone in a step."""
RUN = 1000
"""The length in steps of the run that DANN's schedule assumes."""


class Cell(NamedTuple):
    """One measurement.

    Args:
      family: one of `BESIDE_TORCH`.
      backbone: one of `NETWORKS`.
      batch: number of rows of a batch (of each domain for dann); for maml the number of tasks.
      size: side of the images in pixels, or tokens of a text, or samples of a sound.
      classes: number of classes of the head, or the way of a task.
      dtype: dtype of the computation, "float32" or "bfloat16".
      shot: support images per class (maml).
      query: query images per class (maml).
      inner_steps: number of inner steps (maml).
      microbatch: number of parts in which the batch is processed; for maml on a CPU, one per task.
      lr: learning rate of the optimizer.
    """

    family: str
    backbone: str
    batch: int
    size: int
    classes: int = 10
    dtype: str = "float32"
    shot: int = 1
    query: int = 15
    inner_steps: int = 1
    microbatch: int = 1
    lr: float = 1e-5


class Network(NamedTuple):
    """A backbone and its inputs.

    Args:
      make: makes the backbone for a size of inputs.
      inputs: `inputs(rng, lead, size)` draws inputs, with leading axes `lead`.
      unit: unit of that size.
    """

    make: Callable[[int], Model]
    inputs: Callable[[np.random.Generator, tuple[int, ...], int], Any]
    unit: str = "px"


def _images(channels: int) -> Callable:
    return lambda rng, lead, size: rng.normal(size=(*lead, size, size, channels)).astype(np.float32)


def _texts(rng: np.random.Generator, lead: tuple[int, ...], size: int) -> dict[str, np.ndarray]:
    ids = rng.integers(1000, 30000, (*lead, size)).astype(np.int32)
    return {"ids": ids, "mask": np.ones(ids.shape, bool)}


def _sounds(rng: np.random.Generator, lead: tuple[int, ...], size: int) -> dict[str, np.ndarray]:
    wave = rng.normal(size=(*lead, size)).astype(np.float32)
    return {"wave": wave, "mask": np.ones(wave.shape, bool)}


def _bert(size: Literal["base", "minilm6"]) -> Network:
    return Network(lambda tokens: backbones.bert(size, dropout=0.0, attention_dropout=0.0), _texts, "tokens")


def _wav2vec2(samples: int) -> Model:
    return backbones.wav2vec2("base", dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0)


NETWORKS = {
    "mlp": Network(lambda size: backbones.mlp((512, 512)), _images(1)),
    "conv4": Network(lambda size: backbones.conv4(64), _images(1)),
    "resnet18": Network(lambda size: backbones.resnet18(stem="cifar"), _images(3)),
    "resnet50": Network(lambda size: backbones.resnet50(), _images(3)),
    "convnext_t": Network(lambda size: backbones.convnext("T"), _images(3)),
    "vit_ti": Network(lambda size: backbones.vit("Ti", image=size), _images(3)),
    "vit_s": Network(lambda size: backbones.vit("S", image=size), _images(3)),
    "vit_b": Network(lambda size: backbones.vit("B", image=size), _images(3)),
    "bert_base": _bert("base"),
    "minilm": _bert("minilm6"),
    "wav2vec2_base": Network(_wav2vec2, _sounds, "samples"),
}
INNER_LR = 0.01


class Setup(NamedTuple):
    """The networks, batch and step of a cell."""

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
        """The number of images, texts or sounds in a batch."""
        return sum(leaf.size for leaf in jax.tree.leaves(_labels(self.batch)))


def optimizer(lr: float) -> optax.GradientTransformation:
    """AdamW with explicit hyperparameters, which torch is given too."""
    return optax.adamw(lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2)


def build(cell: Cell) -> Setup:
    """Networks, random weights and a random batch of a cell, and jtl's step for it."""
    if cell.family not in BESIDE_TORCH or cell.backbone not in NETWORKS:
        raise ValueError(f"{cell.family} x {cell.backbone}: families are {BESIDE_TORCH}, backbones {tuple(NETWORKS)}")
    network = NETWORKS[cell.backbone]
    backbone, head, critic = network.make(cell.size), heads.linear(cell.classes), heads.mlp(1, CRITIC)
    example = network.inputs(np.random.default_rng(0), (2,), cell.size)
    net = composed(backbone=backbone, head=head)
    make = jax.jit(lambda key: net.init(key, example))
    tx = optimizer(cell.lr)
    options = {"microbatch": cell.microbatch, "dtype": None if cell.dtype == "float32" else jnp.dtype(cell.dtype)}
    objective: Any
    if cell.family == "finetune":
        objective = finetune(net)
    elif cell.family == "features":
        objective = features(net)
        options["trainable"] = select("head/.*")
    elif cell.family == "tent":
        objective = tent(net)
        options["trainable"] = norms
    elif cell.family == "mcd":
        fit, apart, close = mcd(net, heads.linear(cell.classes))
        objective = [Turn(fit, by=(0, 1)), Turn(apart, by=(1,)), Turn(close, by=(0,), repeat=CLOSE)]
        options["trainable"] = [select("backbone/.*"), select("head/.*", "second/.*")]
        rows = {"x": example, "y": np.zeros(2, np.int32)}
        make = jax.jit(lambda key: fit.init(key, {"source": rows, "target": rows}))
    elif cell.family in ALIGNED:
        weight = weight_schedule(RUN)
        term = {"dann": dann(critic, weight), "cdan": cdan(critic, weight), "mmd": mmd(estimator="biased")}
        objective = adapt(net, alignments=[term[cell.family]])
        rows = {"x": example, "y": np.zeros(2, np.int32)}
        make = jax.jit(lambda key: objective.init(key, {"source": rows, "target": rows}))
    else:
        objective = maml(finetune(net), fixed_rate(INNER_LR), steps=cell.inner_steps, spread="vmap")  # for one part
    step = make_step(objective, [tx, tx] if cell.family == "mcd" else tx, **options)
    return Setup(cell, backbone, head, critic, make(jax.random.key(0)), make_batch(cell), tx, step)


def make_batch(cell: Cell) -> dict[str, Any]:
    """Random images, texts or sounds, the same for the same cell."""
    rng = np.random.default_rng(0)

    def rows(*lead):
        x = NETWORKS[cell.backbone].inputs(rng, lead, cell.size)
        return {"x": x, "y": rng.integers(cell.classes, size=lead).astype(np.int32)}

    def episodes(per_class):
        part = rows(cell.batch, cell.classes * per_class)
        part["y"][:] = np.repeat(np.arange(cell.classes, dtype=np.int32), per_class)
        return part

    if cell.family in ALIGNED:
        return {"source": rows(cell.batch), "target": rows(cell.batch)}
    if cell.family == "maml":
        return {"support": episodes(cell.shot), "query": episodes(cell.query)}
    return rows(cell.batch)


def _labels(batch: Any) -> Any:
    return {name: part if name == "y" else _labels(part) for name, part in batch.items() if name != "x"}
