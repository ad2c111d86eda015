"""Episodes of varying ways and shots in one compiled step, against each episode cut to its own size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, largest_difference

from jtl import heads
from jtl.backbones.recurrent.network import RecurrentSize, recurrent
from jtl.data.varied_episodes import bank, varied_episodes
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.maml import maml, meta
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.update_rules import fixed_rate
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network
from jtl.train.step import make_step

pytestmark = pytest.mark.whole

SIZES = [4, 5, 7, 12]


@pytest.fixture(scope="module")
def data():
    """Two to four classes of one to six examples, of classes of unequal size; each class has its own shots."""
    draw = np.random.default_rng(0)
    y = np.repeat(np.arange(4), SIZES)
    x = (draw.normal(size=(len(y), 5)) + 2 * np.eye(4, 5)[y]).astype(np.float32)
    return varied_episodes(bank(x, y), way=(2, 4), shot=(1, 6), query=2, tasks=4, steps=3, balanced=False)


def cut(half, t):
    """The rows of one task that are there."""
    kept = np.asarray(half["mask"][t])
    return {name: np.asarray(half[name][t])[kept] for name in ("x", "y")}


def test_prototypes_are_those_of_each_episode_alone(key, data):
    """Loss and accuracy by the class means of the rows that are there, in numpy; and no class that is not there."""
    net = network(backbone=dense(6), head=heads.linear(4))
    objective = meta(prototypes(net), finetune(net))
    params, stats = objective.init(key, data[0])
    run = jax.jit(lambda rows: objective(params, stats, rows, key, 0)[1].outputs)
    ways = set()
    for step in range(3):
        rows, found = data[step], run(data[step])
        for t in range(4):
            support, query = (cut(rows[half], t) for half in ("support", "query"))
            n = len(np.unique(support["y"]))
            ways.add((n, tuple(np.bincount(support["y"]))))
            z, q = (
                np.asarray(net.apply(Variables(params, stats), half["x"], train=False)[0].read)
                for half in (support, query)
            )
            c = np.stack([z[support["y"] == k].mean(0) for k in range(n)])
            logits = -np.square(q[:, None] - c[None]).sum(-1)
            log_p = logits - np.log(np.exp(logits - logits.max(1)[:, None]).sum(1))[:, None] - logits.max(1)[:, None]
            np.testing.assert_allclose(
                found["loss"][t], -log_p[np.arange(len(q)), query["y"]].mean(), rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(found["accuracy"][t], (logits.argmax(1) == query["y"]).mean(), rtol=1e-6)
    assert {n for n, _ in ways} == {2, 3, 4}
    assert any(len(set(sizes)) > 1 for _, sizes in ways), "classes of unequal size"


def test_gradient_steps_see_the_rows_that_are_there_alone(key, data):
    """MAML's gradient over a batch is the mean of that of each episode cut to its own size."""
    net = network(backbone=dense(6), head=heads.linear(4))
    objective = maml(finetune(net), fixed_rate(0.3), steps=2)
    params, stats = objective.init(key, data[0])

    def slope(rows):
        return jax.jit(jax.grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)

    each = []
    for t in range(2):
        task = {half: {n: jnp.asarray(a)[None] for n, a in cut(data[0][half], t).items()} for half in data[0]}
        each.append(slope(task))
    both = jax.tree.map(lambda a: a[:2], data[0])
    expected = jax.tree.map(lambda *a: sum(a) / 2, *each)
    assert largest_difference(jax.jit(slope)(both), expected) < 1e-6


def test_all_episodes_are_one_program(key, data):
    net = network(backbone=dense(6), head=heads.linear(4))
    objective = meta(prototypes(net), finetune(net))
    step = make_step(objective, optax.sgd(0.1))
    run, state = jax.jit(step), step.init(objective.init(key, data[0]), key)
    for batch in data:
        state, metrics = run(state, batch)
        assert np.isfinite(float(metrics["loss"]))
    assert run._cache_size() == 1


def test_texts_of_episodes_are_those_of_each_episode_alone(key):
    """Over a GRU: absent rows, without a single token, change neither the loss of an episode nor its gradient."""
    draw, size = np.random.default_rng(0), RecurrentSize(4, 5)
    y = np.repeat(np.arange(3), [4, 6, 5])
    mask = np.arange(6)[None] < draw.integers(1, 7, len(y))[:, None]
    texts = {"ids": (draw.integers(1, 9, mask.shape) * mask).astype(np.int32), "mask": mask}
    rows = varied_episodes(bank(texts, y), way=(2, 3), shot=(1, 3), query=1, tasks=8, balanced=False)[0]
    net = network(backbone=recurrent("gru", size, vocabulary=9), head=heads.linear(3, reads="mean"))
    objective = meta(prototypes(net), finetune(net))
    params, stats = objective.init(key, rows)

    def slope(rows):
        return jax.jit(jax.grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)

    counts = np.asarray(rows["support"]["mask"]).sum(1)
    t = int(counts.argmin())
    assert counts[t] < rows["support"]["mask"].shape[1], "an episode with absent rows"

    def shorter(half):
        kept = np.asarray(half["mask"][t])
        return jax.tree.map(lambda a: jnp.asarray(np.asarray(a[t])[kept])[None], half)

    whole = jax.tree.map(lambda a: a[t : t + 1], rows)
    cut_down = {half: shorter(rows[half]) for half in rows}
    run = jax.jit(slope)
    assert largest_difference(run(whole), run(cut_down)) < 1e-6
    assert max(float(jnp.abs(a).max()) for a in jax.tree.leaves(run(whole))) > 1e-4
