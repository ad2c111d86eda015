"""The runs that faults are injected into; children are forked from a process that imported this module."""

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from benchmarks import kill_resume
from jtl.metrics import accumulate
from jtl.train.state import State
from jtl.typing import Aux

STEPS = 12
FAMILIES = kill_resume.FAMILIES
digest = kill_resume.digest


class Slice:
    """The rows of a data set for one process."""

    def __init__(self, data: Any, process: int, processes: int):
        self.data, self.process, self.processes = data, process, processes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, step: int) -> Any:
        def mine(a: Any) -> Any:
            rows = len(a) // self.processes
            return a[self.process * rows : (self.process + 1) * rows]

        return jax.tree.map(mine, self.data[step])


def wandering(params: Any, stats: Any, batch: Any, key: Any, step: Any) -> tuple[Any, Aux]:
    """A score that goes up and down with the parameters, so that the best checkpoint sometimes changes."""
    del key, step
    size = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    return accumulate.mean(jnp.sin(100 * size) + batch["x"], batch["mask"]), Aux(stats, {})


class Judged:
    """The validation data of `wandering`; `disturb` is called before each batch."""

    def __init__(self, rows: int = 8, disturb: Any = None):
        self.rows, self.disturb = rows, disturb

    def __len__(self) -> int:
        return 2

    def __getitem__(self, step: int) -> dict[str, Any]:
        if self.disturb is not None:
            self.disturb()
        return {"x": np.zeros(self.rows, np.float32), "mask": np.ones(self.rows, bool)}


def validation(**options: Any) -> jtl.Validation:
    """The validation of a run, every four steps."""
    return jtl.Validation(wandering, Judged(**options), every=4)


class Spoiled:
    """Data whose batches go through a function of the step and the batch."""

    def __init__(self, data: Any, spoil: Any):
        self.data, self.spoil = data, spoil

    def __getattr__(self, name: str) -> Any:  # batch size, classes and number of examples
        return getattr(self.data, name)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, step: int) -> Any:
        return self.spoil(step, self.data[step])


class Small(NamedTuple):
    """A small run, with options in which another run may differ.

    Args:
      seed: seed of the initialisation, the run and the data.
      width: width of the hidden layer.
      rate: the learning rate.
      momentum: momentum of the optimizer.
      dropout: dropout rate of the head.
      batch: number of rows of a batch.
      clip: the largest norm of the gradient.
      ema: decay of the moving averages.
      smoothing: smoothing of the labels.
      last: whether only the head is trained.
      half: whether it computes in bfloat16.
      changed: whether one number of the data is different.
    """

    seed: int = 0
    width: int = 8
    rate: float = 0.05
    momentum: float = 0.9
    dropout: float = 0.1
    batch: int = 8
    clip: float | None = None
    ema: float | None = 0.9
    smoothing: float = 0.0
    last: bool = True
    half: bool = False
    changed: bool = False

    def data(self) -> Any:
        """Forty rows of five numbers, in three classes."""
        draw = np.random.default_rng(0)
        x = draw.normal(size=(40, 5)).astype(np.float32)
        y = (np.abs(x).sum(1) * 10).astype(np.int32) % 3
        x[:, 0] += 0.5 * self.changed
        return jtl.data.arrays(x, y, batch_size=self.batch, seed=0)

    def begun(self) -> tuple[Any, State]:
        """Returns the step function and the initial state."""
        net = jtl.network(
            backbone=jtl.backbones.mlp((self.width,)), head=jtl.heads.linear(3, dropout=self.dropout or 0.0)
        )

        def loss(z: Any, y: Any) -> Any:
            return jtl.losses.cross_entropy(z, y, smoothing=self.smoothing)

        step = jtl.make_step(
            jtl.finetune(net, loss),
            optax.sgd(self.rate, momentum=self.momentum),
            trainable=jtl.select("head/.*") if self.last else None,
            clip=self.clip,
            ema=self.ema,
            dtype=jnp.bfloat16 if self.half else None,
        )
        return step, step.init(net.init(jax.random.key(0), jnp.zeros((2, 5))), jax.random.key(self.seed))

    def saver(self, folder: Path, every: int = 2) -> jtl.Checkpoints:
        """The checkpoints of a run."""
        return jtl.Checkpoints(folder, every=every, keep=2)

    def fit(self, folder: Path | None, *, steps: int = STEPS, data: Any = None, **options: Any) -> str:
        """Trains to the end; returns the digest of the state."""
        step, state = self.begun()
        saver = {} if folder is None else {"checkpoints": self.saver(folder)}
        options = {"validation": validation(), "progress": False, **saver, **options}
        return digest(jtl.fit(step, state, self.data() if data is None else data, steps=steps, **options).state)


class Heard(logging.Handler):
    """Keeps the messages of the log "jtl.checkpoint"."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("jtl.checkpoint").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def numbers(variables: Any) -> str:
    """A digest of parameters and statistics."""
    total = hashlib.sha256()
    for path, leaf in sorted(jtl.flatten(variables.params).items()):
        total.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()
