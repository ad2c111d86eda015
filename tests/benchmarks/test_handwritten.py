"""The hand-written steps do the same work as jtl's: the same losses and metrics, step after step, at the same cost."""

import jax
import numpy as np
import pytest

from benchmarks import handwritten
from benchmarks.measure import compiled
from benchmarks.setups import Cell, build

TINY = {"size": 12, "classes": 3, "query": 2, "lr": 1e-3}
CELLS = {
    "finetune, BatchNorm": Cell("finetune", "conv4", 4, **TINY),
    "features, BatchNorm": Cell("features", "conv4", 4, **TINY),
    "dann": Cell("dann", "mlp", 4, **TINY),
    "dann, texts": Cell("dann", "minilm", 2, **{**TINY, "size": 5}),
    "maml, tasks side by side": Cell("maml", "mlp", 2, **TINY),
    "maml, task by task, two steps": Cell("maml", "mlp", 2, inner_steps=2, microbatch=2, **TINY),
    "finetune, bfloat16": Cell("finetune", "mlp", 4, dtype="bfloat16", **TINY),
}


SLOW = {"dann, texts": [pytest.mark.slow, pytest.mark.compiling]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CELLS])
def test_both_steps_train_alike_at_the_same_cost(name):
    cell = CELLS[name]
    setup = build(cell)
    state, (plain, update) = setup.step.init(setup.variables, jax.random.key(1)), handwritten.write(setup)
    ours, theirs = (
        compiled(jax.jit(setup.step.update), state, setup.batch),
        compiled(jax.jit(update), plain, setup.batch),
    )
    found, wanted = [], []
    for _ in range(4):
        state, metrics = ours.run(state, setup.batch)
        plain, plain_metrics = theirs.run(plain, setup.batch)
        names = sorted(plain_metrics)
        found.append([float(metrics[name]) for name in names])
        wanted.append([float(plain_metrics[name]) for name in names])
    # Two programs may add up in another order, and four steps of Adam carry it on: float32 has 1e-7 of relative error.
    # In bfloat16 both round alike up to the order of sums, at 2^-8.
    np.testing.assert_allclose(found, wanted, rtol=1e-5 if cell.dtype == "float32" else 2**-7)
    assert len(set(map(tuple, wanted))) == 4, "each step must change the loss, or this compares nothing"
    if (
        cell.inner_steps == 1 and cell.microbatch == 1
    ):  # of a loop XLA counts one turn, and these steps loop differently
        # Fine-tuning adds 85 FLOPs here, MAML 0.8 %: arithmetic on parameters, which does not grow with the batch.
        assert 0.98 <= ours.flops / theirs.flops <= 1.02
