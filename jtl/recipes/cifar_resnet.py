"""Published CIFAR-10 weights to CIFAR-100 with 10, 50 and 100 images per class, and training from scratch.

    jtl train cifar_resnet --data FOLDER        (or JTL_DATA; it holds cifar_resnet/, cifar10.npz and cifar100.npz)
    jtl eval runs/cifar_resnet/fine-tuning-100/checkpoints
    jtl predict runs/cifar_resnet/fine-tuning-100/checkpoints IMAGE...

Expect these accuracies in percent on the file's 3,000 test images of CIFAR-100, for one seed (jax 0.10.2, two hours on
one core, pauses included):

    images per class     10     50     100
    from scratch         15.3   22.3   20.9
    feature extraction   20.9   26.0   27.6
    fine-tuning          29.9   46.8   49.3
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import backbones, model, report, rng
from jtl import data as jtl_data
from jtl.data import augment
from jtl.methods.augmented import augmented
from jtl.methods.finetune.features import extract
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Model, Variables
from jtl.networks import network, part
from jtl.params import select
from jtl.preprocess import pixels
from jtl.preprocess.image import Preprocessing
from jtl.pretrained.load import Pretrained, load
from jtl.recipes.parts import base
from jtl.recipes.parts.runs import TrainRun
from jtl.train.evaluate import evaluate
from jtl.train.state import variables

MOVED = augment.compose(augment.flip(), augment.crop(32, 4))


@dataclass(frozen=True)
class Recipe:
    """Three ways to learn from the same images, the last two from ResNet-20's published weights.

    Args:
      out: the folder for all output, with one folder per run.
      data: the folder of real data; None for the environment's JTL_DATA.
      seed: the root of all randomness.
      weights: the file of weights, in the data folder.
      shots: the numbers of labelled images of each of the 100 classes, at most 100.
      scratch: the run from random weights.
      head: the run of a linear layer on the frozen network's features.
      tune: the run of all layers, from the published weights.
    """

    out: Path = Path("runs/cifar_resnet")
    data: Path | None = None
    seed: int = 0
    weights: str = "cifar_resnet/resnet20-12fca82f.th"
    shots: tuple[int, ...] = (10, 50, 100)
    scratch: TrainRun = field(default_factory=lambda: TrainRun(steps=2000, batch=32, learning_rate=3e-3))
    head: TrainRun = field(default_factory=lambda: TrainRun(steps=1000, batch=64, learning_rate=1e-2))
    tune: TrainRun = field(default_factory=lambda: TrainRun(steps=2000, batch=32, learning_rate=2e-3))

    def __post_init__(self) -> None:
        base.seeded(self.seed)
        if not self.shots or not all(1 <= shot <= 100 for shot in self.shots):
            raise ValueError(f"shots={self.shots}: numbers of images from 1 to 100, which is all there are of a class")

    def train(self) -> dict[str, Any]:
        """Runs all three ways and prints test accuracies on CIFAR-100."""
        text, known = base.command("cifar_resnet", self), self._known()
        files = base.stored(self.data, "cifar100.npz")
        fresh = self._fresh(known)
        seen = extract(_seen(known), part(known.variables, "backbone"), _batches(files["x_train"]))[0]
        found: dict[str, dict[str, Any]] = {"from scratch": {}, "feature extraction": {}, "fine-tuning": {}}
        for shot in self.shots:
            some = _some(files["y_train"], shot, self.seed)
            x, y = files["x_train"][some], files["y_train"][some].astype(np.int32)
            runs = {
                "from scratch": (self.scratch, fresh, _seen(known), x, MOVED),
                "feature extraction": (self.head, _on_features(fresh), backbones.identity(), seen[some], None),
                "fine-tuning": (self.tune, known.variables, _seen(known), x, MOVED),
            }
            for way, (stage, start, backbone, x, moved) in runs.items():
                print(f"{way}, {shot} images a class", flush=True)
                objective = finetune(network(backbone=backbone, head=known.head))
                objective = objective if moved is None else augmented(objective, moved)
                batch = min(stage.batch, len(x))
                rows = jtl_data.arrays(x, y, batch_size=batch, seed=self.seed, shuffle=True, drop_last=True)
                out = self.out / f"{way.replace(' ', '-')}-{shot}"
                key = rng.stream(jax.random.key(self.seed), out.name)
                ended = variables(stage.run(objective, start, rows, out, text=text, key=key).state)
                if moved is None:  # the head of the whole network
                    ended = Variables({**known.variables.params, "head": ended.params["head"]}, known.variables.stats)
                found[way][f"{shot} images a class"] = self.evaluate(ended)
        columns = ("way", *(f"{shot} a class" for shot in self.shots))
        rows = [(way, *(f"{100 * v['accuracy']:.1f}" for v in each.values())) for way, each in found.items()]
        report.show(report.Table("CIFAR-100, test accuracy in percent, by images a class", columns, rows))
        scratch = found["from scratch"]
        failed = [
            f"{way} does not beat training from scratch at {shot}"
            for way in ("feature extraction", "fine-tuning")
            for shot, value in found[way].items()
            if value["accuracy"] <= scratch[shot]["accuracy"]
        ]
        return {"failed": failed, **found}

    def network(self) -> base.Network:
        """The fine-tuned classifier."""
        known, names = self._known(), tuple(map(str, base.stored(self.data, "cifar100.npz", "names")["names"]))

        def read(path: Any) -> Any:
            return pixels.short_side_crop(pixels.decode(path, "RGB"), 32)

        net = network(backbone=_seen(known), head=known.head)
        rate = self.tune.learning_rate
        return base.Network(known.variables, net, select(".*"), rate, names, read, loaded=known)

    def evaluate(self, variables: Variables) -> dict[str, float]:
        """Loss and accuracy on CIFAR-100's test images."""
        files, known = base.stored(self.data, "cifar100.npz", "x_test", "y_test"), self._known()
        test = jtl_data.arrays(files["x_test"], files["y_test"].astype(np.int32), batch_size=200, shuffle=False)
        net = network(backbone=_seen(known), head=known.head)
        return evaluate(evaluation(net), variables, test, key=jax.random.key(0))

    def _known(self) -> Pretrained:
        key = rng.stream(jax.random.key(self.seed), "head")
        file = base.find(self.data, self.weights)
        name = "cifar_" + Path(self.weights).name.split("-")[0]
        return load(file, arch=name, classes=100, reinit=("head/.*",), key=key)

    def _fresh(self, known: Pretrained) -> Variables:
        key = rng.stream(jax.random.key(self.seed), "weights")
        return known.network.init(key, np.zeros((1, 32, 32, 3), np.float32))


def _seen(known: Pretrained) -> Model:
    """The backbone for images as they are in the files: it normalises them itself."""
    assert isinstance(known.preprocessing, Preprocessing)
    return model.preprocessed(known.backbone, augment.normalise(known.preprocessing.mean, known.preprocessing.std))


def _on_features(fresh: Variables) -> Variables:
    return Variables({"backbone": {}, "head": fresh.params["head"]}, {})


def _batches(x: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for i in range(0, len(x), 250):
        yield {"x": x[i : i + 250], "y": np.zeros(len(x[i : i + 250]), np.int32)}


def _some(y: np.ndarray, shot: int, seed: int) -> np.ndarray:
    """Rows of `shot` images of each class; a larger `shot` takes the same rows and more."""
    order = np.random.default_rng(seed).permutation(len(y))
    return np.concatenate([order[y[order] == c][:shot] for c in np.unique(y)])
