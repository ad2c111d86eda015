"""CIFAR-10 to CIFAR-100: pre-train a small ResNet, fine-tune it on 100 images per class, apply it.

    jtl train cifar --data FOLDER        (or JTL_DATA; it holds cifar10.npz and cifar100.npz)
    jtl eval runs/cifar/fine-tuning/checkpoints
    jtl predict runs/cifar/fine-tuning/checkpoints IMAGE...

Expect these accuracies in percent on CIFAR-100's test images, for one seed: fine-tuning 43.2, from scratch 35.7
(jax 0.10.2, 73 minutes on one of two cores that were busy with other work).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import data as jtl_data
from jtl import heads, report, rng
from jtl.backbones import resnet
from jtl.data import augment
from jtl.methods.augmented import augmented
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.params import select
from jtl.preprocess import pixels
from jtl.recipes.parts import base
from jtl.recipes.parts.runs import TrainRun
from jtl.train.evaluate import evaluate
from jtl.train.state import variables

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
NORMAL = augment.normalise(MEAN, STD)
MOVED = augment.compose(augment.flip(), augment.crop(32, 4))


@dataclass(frozen=True)
class Recipe:
    """Pre-training, then fine-tuning and training from scratch on the same images for as many steps.

    Args:
      out: the folder for all output, with one folder per run.
      data: the folder of real data; None for the environment's JTL_DATA.
      seed: the root of all randomness.
      backbone: the backbone.
      pretrain: the run on CIFAR-10.
      tune: the run of fine-tuning on CIFAR-100.
      scratch: the run on CIFAR-100 from random weights.
    """

    out: Path = Path("runs/cifar")
    data: Path | None = None
    seed: int = 0
    backbone: Model = resnet((1, 1, 1), stem="cifar", width=32)
    pretrain: TrainRun = field(default_factory=lambda: TrainRun(steps=2000, batch=64, learning_rate=3e-3))
    tune: TrainRun = field(default_factory=lambda: TrainRun(steps=2000, batch=64, learning_rate=2e-3))
    scratch: TrainRun = field(default_factory=lambda: TrainRun(steps=2000, batch=64, learning_rate=3e-3))

    def __post_init__(self) -> None:
        base.seeded(self.seed)

    def train(self) -> dict[str, Any]:
        """Runs all three and prints test accuracies on CIFAR-100."""
        text, key = base.command("cifar", self), jax.random.key(self.seed)
        ten, hundred = (base.stored(self.data, f"cifar{n}.npz") for n in (10, 100))
        small, large = heads.linear(10), heads.linear(100)
        fresh = [self._fresh(small), self._fresh(large)]
        source = self._run(self.pretrain, "pre-training", ten, small, fresh[0], key, text)
        warm = Variables({**fresh[1].params, "backbone": source.params["backbone"]}, source.stats)
        tuned = self._run(self.tune, "fine-tuning", hundred, large, warm, key, text)
        plain = self._run(self.scratch, "from scratch", hundred, large, fresh[1], key, text)
        found = {"fine-tuning": self.evaluate(tuned), "from scratch": self.evaluate(plain)}
        rows = [(name, f"{100 * value['accuracy']:.1f}") for name, value in found.items()]
        report.show(report.Table("CIFAR-100, test accuracy in percent", ("way", "accuracy"), rows))
        better = found["fine-tuning"]["accuracy"] > found["from scratch"]["accuracy"]
        return {"failed": [] if better else ["fine-tuning does not beat training from scratch on CIFAR-100"], **found}

    def network(self) -> base.Network:
        """The fine-tuned classifier."""
        head = heads.linear(100)
        names = tuple(base.stored(self.data, "cifar100.npz", "names")["names"])
        net = network(backbone=self.backbone, head=head)
        return base.Network(self._fresh(head), net, select(".*"), self.tune.learning_rate, names, _read)

    def evaluate(self, variables: Variables) -> dict[str, float]:
        """Loss and accuracy on CIFAR-100's test images."""
        test = _rows(base.stored(self.data, "cifar100.npz", "x_test", "y_test"), "test", 200, shuffle=False)
        objective = augmented(evaluation(network(backbone=self.backbone, head=heads.linear(100))), NORMAL)
        return evaluate(objective, variables, test, key=jax.random.key(0))

    def _fresh(self, head: Model) -> Variables:
        example = np.zeros((1, 32, 32, 3), np.float32)
        key = rng.stream(jax.random.key(self.seed), "weights")
        return network(backbone=self.backbone, head=head).init(key, example)

    def _run(
        self, stage: TrainRun, name: str, files: Any, head: Model, start: Variables, key: Any, text: str
    ) -> Variables:
        print(name, flush=True)
        objective = augmented(finetune(network(backbone=self.backbone, head=head)), augment.compose(MOVED, NORMAL))
        rows = _rows(files, "train", stage.batch, shuffle=True, seed=self.seed)
        own = rng.stream(key, name)
        return variables(stage.run(objective, start, rows, self.out / name, text=text, key=own).state)


def _rows(files: Any, split: str, batch: int, *, shuffle: bool, seed: int = 0) -> Any:
    x, y = files[f"x_{split}"], files[f"y_{split}"].astype(np.int32)
    return jtl_data.arrays(x, y, batch_size=batch, seed=seed, shuffle=shuffle, drop_last=shuffle)


def _read(path: Path) -> np.ndarray:
    """Reads an image file as the network takes it, [32, 32, 3]."""
    image = pixels.short_side_crop(pixels.decode(path, "RGB"), 32)
    return np.asarray(NORMAL(None, image[None]))[0]
