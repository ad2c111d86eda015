"""MNIST to USPS without USPS labels: DANN against the source alone, on the same batches of the source.

    jtl train usps_dann --data FOLDER        (or JTL_DATA; it holds tfds/mnist and usps.npz)
    jtl eval runs/usps_dann/dann/checkpoints
    jtl predict runs/usps_dann/dann/checkpoints IMAGE...

Expect these accuracies in percent on the test images of USPS, for one seed: source only 72.6, DANN 79.8 (jax 0.10.2,
three minutes on two busy cores). The baseline is fine-tuning on the source, so that no row of the target enters its
BatchNorm.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import data as jtl_data
from jtl import heads, report, rng
from jtl.backbones import conv4
from jtl.data import augment
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann, weight_schedule
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

SIDE = 28
NORMAL = augment.normalise((0.5,), (0.5,))
CRITIC = heads.mlp(1, (128,))
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Recipe:
    """Two runs from the same weights on the same source batches, one of them with USPS; the last step is judged.

    Args:
      out: the folder for all output, with one folder per run.
      data: the folder of real data; None for the environment's JTL_DATA.
      seed: the root of all randomness.
      backbone: the backbone; its features are the last map, flattened.
      stage: the settings of both runs; each step takes a batch of each domain.
      weight: the largest λ of the reversed gradient.
    """

    out: Path = Path("runs/usps_dann")
    data: Path | None = None
    seed: int = 0
    backbone: Model = conv4(32, flatten=True, conv="lax")
    stage: TrainRun = field(default_factory=lambda: TrainRun(steps=1500, batch=64, learning_rate=1e-3))
    weight: float = 0.3

    def __post_init__(self) -> None:
        base.seeded(self.seed)

    def train(self) -> dict[str, Any]:
        """Runs both and prints test accuracies on USPS."""
        text, ramp = base.command("usps_dann", self), weight_schedule(self.stage.steps)
        start, pairs = self._fresh(), self._pairs()
        against = dann(CRITIC, lambda step: self.weight * ramp(step))
        # The baseline has its own objective, because otherwise it would see the target's rows in BatchNorm.
        ways = {
            "source only": (finetune(self._net()), pairs.source),
            "dann": (adapt(self._net(), alignments=[against]), pairs),
        }
        found = {}
        for name, (objective, data) in ways.items():
            print(name, flush=True)
            objective = augmented(objective, NORMAL)
            key = rng.stream(jax.random.key(self.seed), "run")
            result = self.stage.run(objective, start, data, self.out / name, text=text, key=key)
            found[name] = self.evaluate(variables(result.state))
        rows = [(name, f"{100 * value['accuracy']:.1f}") for name, value in found.items()]
        report.show(report.Table("USPS, test accuracy in percent, no USPS label used", ("way", "accuracy"), rows))
        better = found["dann"]["accuracy"] > found["source only"]["accuracy"]
        return {"failed": [] if better else ["DANN does not beat the source alone on USPS"], **found}

    def network(self) -> base.Network:
        """The adapted classifier, with its critic."""
        return base.Network(self._fresh(), self._net(), select(".*"), self.stage.learning_rate, DIGITS, _read)

    def evaluate(self, variables: Variables) -> dict[str, float]:
        """Loss and accuracy on USPS's test images."""
        x, y = self._usps("test")
        rows = jtl_data.arrays(x, y, batch_size=200, shuffle=False)
        objective = augmented(evaluation(self._net()), NORMAL)
        return evaluate(objective, variables, rows, key=jax.random.key(0))

    def _net(self) -> Model:
        return network(backbone=self.backbone, head=heads.linear(10))

    def _fresh(self) -> Variables:
        rows = {"x": np.zeros((1, SIDE, SIDE, 1), np.float32), "y": np.zeros(1, np.int32)}
        key = rng.stream(jax.random.key(self.seed), "weights")
        return adapt(self._net(), alignments=[dann(CRITIC)]).init(key, {"source": rows, "target": rows})

    def _pairs(self) -> Any:
        options = {"batch_size": self.stage.batch, "seed": self.seed, "drop_last": True}
        source = jtl_data.tfds("mnist", "train", base.find(self.data, "tfds"), **options)
        return jtl_data.pair(source, jtl_data.arrays(*self._usps("train"), **options))

    def _usps(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        files = base.stored(self.data, "usps.npz", f"x_{split}", f"y_{split}")
        x = np.stack([pixels.resize(image[..., None], (SIDE, SIDE)) for image in files[f"x_{split}"]])
        return x, files[f"y_{split}"].astype(np.int32)


def _read(path: Path) -> np.ndarray:
    """Reads an image file, with bright ink, as the network takes it, [28, 28, 1]."""
    image = pixels.resize(pixels.decode(path, "L"), (SIDE, SIDE))
    return np.asarray(NORMAL(None, image[None]))[0]
