"""One accuracy per family on real handwriting; floors are justified by seeds, and said beside them."""

import jax
import numpy as np
import optax
import pytest

from jtl import backbones, data, heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann, weight_schedule
from jtl.methods.finetune.features import features
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.methods.meta.maml import maml
from jtl.methods.meta.update_rules import fixed_rate
from jtl.networks import network
from jtl.params import select
from jtl.train import evaluator, fit, make_step, mesh, variables

pytestmark = pytest.mark.slow
ONE = mesh(devices=jax.devices()[:1])  # eight virtual devices on two cores would only take turns
NET = network(backbone=backbones.conv4(32), head=heads.linear(10))


def digits(real_data, name, split):
    """[n, 16, 16, 1] in about −1 … 1 and labels; MNIST is made as large as USPS is."""
    if name == "usps":
        found = np.load(real_data("usps.npz"))
        x, y = found[f"x_{split}"], found[f"y_{split}"]
    else:
        rows = next(iter(data.tfds("mnist", split, data_dir=real_data("tfds"), batch_size=10_000, shuffle=True)))
        x = np.asarray(jax.image.resize(rows["x"][..., 0].astype(np.float32), (10_000, 16, 16), "linear"))
        y = rows["y"]
    return (x.astype(np.float32)[..., None] - 127.5) / 127.5, y.astype(np.int32)


def per_class(x, y, n, seed):
    draw = np.random.default_rng(seed)
    rows = np.concatenate([draw.choice(np.flatnonzero(y == c), n, replace=False) for c in range(10)])
    return x[rows], y[rows]


def train(step, made, rows, steps, seed):
    return variables(
        fit(step, step.init(made, jax.random.key(seed)), rows, steps=steps, mesh=ONE, progress=False).state
    )


def accuracy_on(x, y):
    rows, judge = data.arrays(x, y, batch_size=1000, shuffle=False), evaluator(evaluation(NET))
    return lambda made: judge(made, rows, mesh=ONE)["accuracy"]


@pytest.mark.first
def test_few_labels_on_usps_from_mnist_weights(real_data):
    """Five labelled images per class, the pre-trained weights made here in 300 steps."""
    mnist, usps, test = (digits(real_data, *of) for of in (("mnist", "train"), ("usps", "train"), ("usps", "test")))
    accuracy = accuracy_on(*test)
    learn = make_step(finetune(NET), optax.adam(2e-3))
    probe = make_step(features(NET), optax.adam(2e-3), trainable=select("head/.*"))
    found = {"scratch": [], "features": [], "finetune": []}
    for seed in range(3):
        fresh = NET.init(jax.random.key(seed), mnist[0][:1])
        known = train(learn, fresh, data.arrays(*mnist, batch_size=50, seed=seed), 300, seed)
        few = data.arrays(*per_class(*usps, 5, seed), batch_size=50, seed=seed)
        for name, step, start in (("scratch", learn, fresh), ("features", probe, known), ("finetune", learn, known)):
            found[name].append(accuracy(train(step, start, few, 100, seed)))
    # Measured with these seeds: scratch .644 .639 .617, features .669 .699 .677, fine-tuning .807 .829 .828. The
    # standard error of a mean gain is .014 and .011; the floors lie three of them and more below .05 and .19.
    scratch, probed, tuned = (np.array(found[name]) for name in ("scratch", "features", "finetune"))
    assert (probed - scratch).mean() > 0.01, found
    assert (tuned - scratch).mean() > 0.12, found
    assert tuned.mean() > 0.78, found


@pytest.mark.first
def test_dann_from_usps_to_mnist_beats_source_only(real_data):
    source, target = digits(real_data, "usps", "train"), digits(real_data, "mnist", "train")
    accuracy = accuracy_on(*digits(real_data, "mnist", "test"))
    critic, steps = heads.mlp(1, (128,)), 600
    objective = adapt(NET, alignments=[dann(critic, weight_schedule(steps))])
    alone, against = make_step(finetune(NET), optax.adam(1e-3)), make_step(objective, optax.adam(1e-3))
    found = {"source only": [], "dann": []}
    for seed in range(3):
        rows = [data.arrays(*of, batch_size=64, seed=seed) for of in (source, target)]
        pairs = data.pair(*rows)
        made = objective.init(jax.random.key(seed), pairs[0])
        for name, step, batches in (("source only", alone, rows[0]), ("dann", against, pairs)):
            found[name].append(accuracy(train(step, made, batches, steps, seed)))
    # Measured with these seeds: source only .559 .534 .527, DANN .663 .602 .671 after 600 steps; mean gain .105,
    # standard error .022. (SKADA-Bench, trained to the end: source only 73.4, DANN 86.8 on this pair.)
    gains = np.array(found["dann"]) - np.array(found["source only"])
    assert gains.mean() > 0.04, found
    assert (gains > 0).all(), found


@pytest.mark.first
def test_maml_on_omniglot(real_data):
    stored = np.load(real_data("omniglot28.npz"))["X"]
    kept, _, held = data.split_classes(1623, (1100, 100, 423))
    images = stored[..., None].astype(np.float32) / 255
    net = network(backbone=backbones.conv4(32, momentum=1.0), head=heads.linear(5))
    inner, rate = finetune(net), fixed_rate(0.4)
    tasks = {"way": 5, "shot": 1, "query": 15}
    rows = data.episodes(images[kept], tasks=16, rotations=True, seed=0, **(tasks | {"query": 5}))
    unseen = data.episodes(images[held], tasks=1, seed=1, **tasks)
    batches = [unseen[i] for i in range(200)]
    made = net.init(jax.random.key(0), images[0, :1])
    step = make_step(maml(inner, rate, steps=1), optax.adam(2e-3), microbatch=16)
    trained = train(step, made, rows, 400, 0)
    transductive, inductive = (evaluator(maml(inner, rate, steps=3, outer=o)) for o in (None, evaluation(net)))
    found = {
        "untrained": transductive(made, batches, mesh=ONE)["accuracy"],
        "transductive": transductive(trained, batches, mesh=ONE)["accuracy"],
        "inductive": inductive(trained, batches, mesh=ONE)["accuracy"],
    }
    # Measured after 400 of the 6,000 iterations that reach 96.8, with 5 queries a class in training (15 take three
    # times as long): untrained .497, transductive .838, inductive .807, standard errors .008 over 200 tasks. At half
    # the outer rate it was .758 and .726, below the floors.
    assert found["untrained"] < 0.6, found
    assert found["transductive"] > 0.76, found
    assert found["inductive"] > 0.73, found
