"""SHOT between MNIST and USPS by the protocol of its paper: its network, its schedule, all images of both sets.

    python benchmarks/shot_digits.py --source mnist --epochs 5 --target-epochs 30 --cache CACHE
    python benchmarks/shot_digits.py --source usps --epochs 30 --target-epochs 5 --cache CACHE

Real data from `JTL_DATA`: MNIST's 60,000 and 10,000 images, and the 9,298 of USPS in a random split of 7,438 and 1,860,
as the paper's file of USPS has them (USPS's own test set is harder). All have 28x28 pixels: `--frame 28` resizes USPS
to the whole picture, `--frame 20` to 20x20 pixels with a border of 4, as in MNIST. LeNet with a bottleneck of 256
(batch normalisation, dropout) and a classifier with weight normalisation; stochastic gradient descent with Nesterov
momentum, batches of 64, labels smoothed by 0.1 on the source, which is shifted and rotated if it is USPS; pseudo-labels
of weight 0.1, recomputed every epoch, on the target.

The last steps of the source and of SHOT are tested once each: no label of the target chooses anything. The source's
weights are kept in `CACHE`, and the results of earlier calls in the file. The paper trains 30 epochs throughout; the
table says how many there are here.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl.nn.batch_norm import BatchNorm
from jtl.nn.convolution import convolution
from jtl.nn.layers import Conv
from jtl.nn.pooling import max_pool
from jtl.params import flatten, unflatten
from jtl.preprocess import pixels
from jtl.recipes.parts import base
from jtl.selection import validators
from jtl.train.state import variables as variables_of

BATCH, RATE, SMOOTHING, WEIGHT = 64, 0.01, 0.1, 0.1
PUBLISHED = {"mnist": (79.7, 97.9), "usps": (88.0, 98.0)}
"""The paper's accuracies of the source alone and of SHOT, by source."""
Split = tuple[np.ndarray, np.ndarray]


class _Pixels(nn.Module):
    """A 5x5 convolution to 20 channels; three channels get a fourth of zeros, because XLA is then faster on a CPU."""

    kernel_init: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        kernel = jnp.asarray(self.param("kernel", self.kernel_init, (5, 5, x.shape[-1], 20)))
        more = -x.shape[-1] % 4 if x.shape[-1] > 1 else 0
        x, kernel = jnp.pad(x, ((0, 0),) * 3 + ((0, more),)), jnp.pad(kernel, ((0, 0),) * 2 + ((0, more), (0, 0)))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (20,)))
        return convolution(x, kernel, 1, ((0, 0), (0, 0))) + bias[None, None, None]


class _LeNet(nn.Module):
    """Two 5x5 convolutions with pooling, then a bottleneck; pixels in [0, 1]."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        options: Any = {"padding": 0, "bias": True, "kernel_init": nn.initializers.he_uniform()}
        x = nn.relu(max_pool(_Pixels(options["kernel_init"], name="conv1")(2 * x - 1)))
        x = Conv(50, 5, 1, name="conv2", **options)(x)
        x = nn.Dropout(0.5, broadcast_dims=(1, 2), deterministic=not train)(x)
        x = nn.relu(max_pool(x)).reshape(len(x), -1)
        x = BatchNorm(name="norm")(
            nn.Dense(256, kernel_init=nn.initializers.xavier_normal(), name="bottleneck")(x), train
        )
        return {"pooled": nn.Dropout(0.5, deterministic=not train)(x)}


class _Classifier(nn.Module):
    """An affine map with weight normalisation, `g v / ‖v‖`."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        v = self.param("direction", nn.initializers.xavier_normal(), (x.shape[-1], 10))
        length = jnp.sqrt((v**2).sum(0))
        g = self.param("length", lambda key: length)  # starts at v's length, so that the layer starts as a plain one
        return x @ (v * (g / length)[None]) + self.param("bias", nn.initializers.zeros, (10,))[None]


def network() -> jtl.Model:
    """The network of SHOT's experiments on digits."""
    return jtl.network(backbone=jtl.from_linen(_LeNet()), head=jtl.from_linen(_Classifier()))


def mnist() -> tuple[Split, Split]:
    """All images, uint8 [rows, 28, 28, 1]."""
    found = []
    for split, count in (("train", 60_000), ("test", 10_000)):
        data = jtl.data.tfds("mnist", split, base.find(None, "tfds"), batch_size=count, shuffle=False)[0]
        found.append((np.asarray(data["x"]).reshape(-1, 28, 28, 1), np.asarray(data["y"])))
    return found[0], found[1]


def usps(frame: int) -> tuple[Split, Split]:
    """All images, uint8 [rows, 28, 28, 1], in a random split with the sizes of the paper's."""
    kept = np.load(base.find(None, "usps.npz"))
    x, y = (np.concatenate([kept[f"{name}_{part}"] for part in ("train", "test")]) for name in "xy")
    edge = (28 - frame) // 2
    x = np.stack(
        [np.pad(pixels.resize(image[..., None], (frame, frame)), ((edge, edge), (edge, edge), (0, 0))) for image in x]
    )
    at = np.random.default_rng(0).permutation(len(x))
    return (x[at[:7438]], y[at[:7438]].astype(np.int32)), (x[at[7438:]], y[at[7438:]].astype(np.int32))


def scaled(x: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1]."""
    return x.astype(np.float32) / 255


def optimizer(steps: int) -> optax.GradientTransformation:
    """The optimizer of both stages."""
    return optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(jtl.optim.annealed(RATE, steps), 0.9, nesterov=True))


def pretrained(net: jtl.Model, name: str, train: Split, epochs: int, seed: int) -> tuple[Any, float]:
    """Returns the source's variables after its last step, and the training time in seconds."""
    began, key = time.perf_counter(), jax.random.key(seed)
    data = jtl.data.arrays(scaled(train[0]), train[1], batch_size=BATCH, seed=seed, drop_last=True)
    objective = jtl.finetune(net, lambda z, y: jtl.losses.cross_entropy(z, y, smoothing=SMOOTHING))
    step = jtl.make_step(objective, optimizer(epochs * len(data)))
    # The paper rotates and shifts only USPS.
    moved = jtl.data.augment.compose(jtl.data.augment.crop(28, 4), jtl.data.augment.rotate(10))

    def run(state: Any, batch: Any) -> Any:
        if name == "usps":
            batch = {**batch, "x": moved(jtl.rng.stream(key, "augment", state.step), batch["x"])}
        return step(state, batch)

    update, state = jax.jit(run, donate_argnums=0), step.init(objective.init(key, data[0]), key)
    for i in range(epochs * len(data)):
        state, _ = update(state, data[i])
    return variables_of(state), time.perf_counter() - began


def adapted(net: jtl.Model, start: Any, x: np.ndarray, epochs: int, seed: int) -> tuple[Any, float]:
    """Returns SHOT's variables after its last step, and the training time in seconds."""
    began, key, rows = time.perf_counter(), jax.random.key(seed), np.arange(len(x))
    data = jtl.data.arrays(scaled(x), rows, batch_size=BATCH, seed=seed)
    whole = jtl.data.arrays(scaled(x), rows, batch_size=512, shuffle=False)
    objective = jtl.source_free.shot(net, len(x), weight=WEIGHT)
    step = jtl.make_step(objective, optimizer(epochs * len(data)), trainable=jtl.select("backbone/.*"))
    update, label = jax.jit(step, donate_argnums=0), jtl.source_free.pseudo_labels(net, whole)
    state = step.init(objective.init(key, data[0], start), key)
    for i in range(epochs * len(data)):
        if i % len(data) == 0:
            state = label(state)
        state, _ = update(state, data[i])
    found = variables_of(state)
    kept = {name: part for name, part in found.stats.items() if name != "shot"}
    return found._replace(stats=kept), time.perf_counter() - began


def read(net: jtl.Model, variables: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of the classifier, and its logits."""
    look = jax.jit(lambda x: net.apply(variables, x, train=False)[0])
    found = [look(scaled(part)) for part in np.array_split(x, max(1, len(x) // 1000))]
    return np.concatenate([out.read for out in found]), np.concatenate([out.output for out in found])


def scores(net: jtl.Model, variables: Any, target: Split, test: Split) -> dict[str, float]:
    """The label-free score `adaptation_runs.VALIDATOR`, and the accuracy on the target's test images."""
    features, logits = read(net, variables, target[0][:3000])
    accuracy = (read(net, variables, test[0])[1].argmax(1) == test[1]).mean()
    return {"clustering": validators.class_clustering(features, logits), "accuracy": 100 * float(accuracy)}


def main(given: list[str] | None = None) -> None:
    """Trains on one domain, adapts to the other, and adds a row to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=sorted(PUBLISHED), required=True)
    parser.add_argument("--frame", type=int, choices=(20, 28), default=28)
    parser.add_argument("--epochs", type=int, default=30, help="of the source")
    parser.add_argument("--target-epochs", type=int, default=30)
    parser.add_argument("--rows", type=int, help="of each set at most, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, required=True, help="a folder for the source's weights")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "shot_digits-cpu.json")
    asked = parser.parse_args(given)
    where = environment(sys.argv if given is None else [__file__, *given])
    of = {"mnist": mnist(), "usps": usps(asked.frame)}
    other = "usps" if asked.source == "mnist" else "mnist"
    (source, _), (target, test) = (
        [(x[: asked.rows], y[: asked.rows]) for x, y in of[name]] for name in (asked.source, other)
    )
    net = network()
    frame = "" if asked.source == "mnist" else f"-{asked.frame}"
    cache = asked.cache / f"{asked.source}{frame}-{asked.epochs}-{asked.rows}-{asked.seed}.npz"
    if cache.exists():
        kept = np.load(cache)
        flat = {name: kept[name] for name in kept.files}
        seconds = float(flat.pop("seconds"))
        start = jtl.Variables(*(unflatten({n[2:]: a for n, a in flat.items() if n[0] == k}) for k in "ps"))
    else:
        start, seconds = pretrained(net, asked.source, source, asked.epochs, asked.seed)
        flat = {f"{k} {n}": a for k, part in zip("ps", start, strict=True) for n, a in flatten(part).items()}
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, seconds=seconds, **flat)
    print(f"source after {seconds:.0f} s", flush=True)
    before = scores(net, start, target, test)
    print(before, flush=True)
    final, shot_seconds = adapted(net, start, target[0], asked.target_epochs, asked.seed)
    after = scores(net, final, target, test)
    print(after, f"{shot_seconds:.0f} s", flush=True)
    row = {
        **{"source": asked.source, "frame": asked.frame, "seed": asked.seed},
        **{"epochs": [asked.epochs, asked.target_epochs], "images": [len(source[0]), len(target[0]), len(test[0])]},
        **{"before": before, "after": after, "published": PUBLISHED[asked.source]},
        "seconds": [round(seconds), round(shot_seconds)],
    }
    rows = json.loads(asked.json.read_text())["rows"] if asked.json.exists() else []
    same = ("source", "frame", "seed")
    rows = [old for old in rows if any(old[name] != row[name] for name in same)] + [row]
    rows.sort(key=lambda row: tuple(row[name] for name in same))
    minutes = round(sum(sum(row["seconds"]) for row in rows) / 60, 1)
    tables.write({"benchmark": "shot", "environment": where, "minutes": minutes, "rows": rows}, asked.json)


if __name__ == "__main__":
    main()
