"""What holds for every task: it initialises, learns, is judged, predicts, resumes, and may be cut up."""

import jax
import numpy as np
import optax
import pytest
from nets import largest_difference
from task_cases import CASES, ROWS

import jtl
from jtl.train.parallel.sharding import jit_step, mesh, put_batch

pytestmark = pytest.mark.whole

ONE = mesh(devices=jax.devices()[:1])


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def data_of(case):
    return jtl.data.arrays(case.x, case.y, batch_size=ROWS, shuffle=False, ignore=_ignored(case))


def _ignored(case):
    return -1 if isinstance(case.y, dict) and "boxes" in case.y else case.task.ignore


def start(case, objective, data, key):
    step = jtl.make_step(objective, optax.adam(case.rate))
    return step, step.init(objective.init(key, data[0]), key)


def test_it_learns_is_judged_predicts_and_resumes(case, key, tmp_path):
    objective, data = jtl.finetune(case.net, **case.task.supervision), data_of(case)
    step, state = start(case, objective, data, key)
    options = {"mesh": ONE, "progress": False}
    whole = jtl.fit(step, state, data, steps=case.steps, **options)
    losses = [row["loss"] for row in whole.history]
    assert losses[-1] < case.below < losses[0]

    trained = jtl.variables(whole.state)
    found = jtl.evaluate(jtl.evaluation(case.net, **case.task.supervision), trained, data)
    for name, floor in case.floors.items():
        assert found[name] >= floor if floor > 0 else found[name] <= -floor, (name, found[name])
    assert case.right(jtl.predict(case.net, trained, data)) > 0.9
    untrained = jtl.predict(case.net, jtl.variables(state), data)
    assert case.right(untrained) < 0.7, "the check can fail"

    for steps in (case.steps - 3, case.steps):  # a run that was stopped three steps before its end
        saved = jtl.Checkpoints(tmp_path / "run", every=case.steps - 3)
        resumed = jtl.fit(step, state, data, steps=steps, checkpoints=saved, **options)
    assert len(resumed.history) == 3
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(s.params) for s in (whole.state, resumed.state)))


def test_neither_microbatches_nor_devices_change_a_step(case, key):
    # Evaluation mode: batch statistics of a part are its own, by their nature.
    objective = jtl.finetune(case.net, **case.task.supervision, frozen_stats=True)
    batch = dict(data_of(case)[0])
    batch["mask"] = np.arange(ROWS) != 2
    variables = objective.init(key, batch)
    found = {}
    for name, (microbatch, grid) in {"whole": (1, ONE), "parts": (2, ONE), "devices": (1, mesh())}.items():
        step = jtl.make_step(objective, optax.sgd(0.1), microbatch=microbatch)
        run, state = jit_step(step, step.init(variables, key), grid)
        state, metrics = run(state, put_batch(batch, grid))
        found[name] = jax.device_get((state.params, metrics))
    assert largest_difference(found["whole"][0], variables.params) > 1e-4, "the step moves the parameters"
    # Sums in another order: float32 rounding, 6e-8 relative, of gradients of order 10.
    for other in ("parts", "devices"):
        assert largest_difference(found["whole"][0], found[other][0]) < 1e-5
        for name, value in found["whole"][1].items():
            np.testing.assert_allclose(value, found[other][1][name], rtol=1e-5, atol=1e-6, err_msg=name)
