"""What runs between steps, resumed at its step; and validations of whole data sets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, parts

from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.metrics.accumulate import Metric
from jtl.model import Variables
from jtl.train.checkpoint import manifest
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.checkpoint.identity import AnotherRun, refreshing
from jtl.train.collect import collect
from jtl.train.evaluate import Validation, evaluate
from jtl.train.loop import fit
from jtl.train.parallel.sharding import mesh
from jtl.train.refresh import Refresh
from jtl.train.step import make_step
from jtl.typing import Aux

ONE = mesh(devices=jax.devices()[:1])


class Rows:
    def __init__(self, epoch=4):
        self.epoch = epoch

    def __len__(self):
        return self.epoch

    def __getitem__(self, step):
        return batch(n=16, seed=step)


def counted(params, stats, batch, key, step):
    """The gradient is 1; the statistics count the steps since the last refresh."""
    return params["w"], Aux({"since": stats["since"] + 1, "runs": stats["runs"]})


def restart(state):
    stats = {"since": jnp.zeros(()), "runs": state.stats["runs"] + 1}
    return state._replace(stats=stats, opt=jax.tree.map(jnp.zeros_like, state.opt))


def begun(key):
    step = make_step(counted, optax.sgd(1.0, momentum=0.5))
    start = Variables({"w": jnp.zeros(())}, {"since": jnp.zeros(()), "runs": jnp.zeros(())})
    return step, step.init(start, key)


def test_it_runs_before_the_first_step_and_after_each_interval(key):
    step, state = begun(key)
    found = fit(step, state, Rows(), steps=7, mesh=ONE, refresh=Refresh(restart, 3), progress=False).state
    assert {name: float(value) for name, value in found.stats.items()} == {"since": 1.0, "runs": 3.0}
    # Momentum .5 is forgotten at steps 3 and 6: (1 + 1.5 + 1.75) twice, and 1.
    assert float(found.params["w"]) == -(2 * 4.25 + 1)


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_run_resumed_at_any_step_has_the_same_bits(key, tmp_path, at):
    step, state = begun(key)
    options = {"mesh": ONE, "refresh": Refresh(restart, 3), "progress": False}
    whole = fit(step, state, Rows(), steps=7, **options).state
    for steps in (at, 7):
        found = fit(step, state, Rows(), steps=steps, checkpoints=Checkpoints(tmp_path), **options).state
    jax.tree.map(np.testing.assert_array_equal, found._replace(key=0), whole._replace(key=0))


def again(state):
    return state


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Refresh(restart, 2), "refresh/every: 3 -> 2"),
        (Refresh(again, 3), "refresh/run: .*restart .* -> .*again "),
        (None, "refresh/every: 3 -> never"),
    ],
)
def test_a_run_with_another_refresh_is_another_run(key, tmp_path, other, told):
    step, state = begun(key)
    options = {"mesh": ONE, "progress": False}
    fit(step, state, Rows(), steps=2, checkpoints=Checkpoints(tmp_path), refresh=Refresh(restart, 3), **options)
    with pytest.raises(AnotherRun, match=told):
        fit(step, state, Rows(), steps=4, checkpoints=Checkpoints(tmp_path), refresh=other, **options)


def test_a_refresh_that_is_added_is_told_and_older_checkpoints_go_on(key, tmp_path):
    step, state = begun(key)
    options = {"mesh": ONE, "progress": False}
    fit(step, state, Rows(), steps=2, checkpoints=Checkpoints(tmp_path), **options)
    added = {**options, "refresh": Refresh(restart, 3)}
    with pytest.raises(AnotherRun, match="refresh/every: never -> 3"):
        fit(step, state, Rows(), steps=4, checkpoints=Checkpoints(tmp_path), **added)
    saver = Checkpoints(tmp_path)
    folder = saver.path(2)
    about = manifest.read(folder)
    del about["run"]["refresh/every"]  # as before refreshes were described
    del about["files"]
    manifest.write(folder, about)
    assert int(fit(step, state, Rows(), steps=4, checkpoints=Checkpoints(tmp_path), **added).state.step) == 4


def test_a_refresh_is_described_by_its_function(key):
    def described(run):
        return refreshing(Refresh(run, 3))["refresh/run"]

    class Restarts:
        def __call__(self, state):
            return restart(state)

        def run(self, state):
            return restart(state)

    assert described(jax.jit(restart)) == described(functools.partial(restart)) == described(restart)
    assert described(Restarts()).endswith("Restarts")
    assert "Restarts.run " in described(Restarts().run)


def test_a_refresh_that_changes_the_state_is_refused(key):
    step, state = begun(key)
    with pytest.raises(AssertionError, match="the state of a refresh"):
        fit(step, state, Rows(), steps=1, mesh=ONE, progress=False, refresh=Refresh(lambda s: s._replace(stats={}), 1))
    with pytest.raises(ValueError, match=r"refresh\.every=0"):
        fit(step, state, Rows(), steps=1, mesh=ONE, progress=False, refresh=Refresh(lambda s: s, 0))


def test_numbers_of_all_rows_are_validated_and_can_be_watched(key):
    net, _, variables = parts(key, Rows()[0]["x"])

    def spread(variables):
        rows = collect(evaluation(net), variables, Rows(2), only=("output",))["output"]
        return {"spread": float(rows.std())}

    validation = Validation(evaluation(net), Rows(2), every=2, watch="spread", mode="max", also=(spread,))
    step = make_step(finetune(net), optax.sgd(0.1))
    found = fit(step, step.init(variables, key), Rows(), steps=4, mesh=ONE, validation=validation, progress=False)
    told = {row["step"]: row["spread"] for row in found.history if row["split"] == "validation"}
    assert set(told) == {2, 4}
    np.testing.assert_allclose(told[4], spread(Variables(found.state.params, found.state.stats))["spread"], rtol=1e-5)
    assert found.best == max(told, key=told.__getitem__)


def test_names_that_are_taken_are_refused(key):
    net, _, variables = parts(key, Rows()[0]["x"])
    validation = Validation(evaluation(net), Rows(2), also=(lambda v: {"accuracy": 1.0},))
    step = make_step(finetune(net), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"also gives the names \['accuracy'\]"):
        fit(step, step.init(variables, key), Rows(), steps=1, mesh=ONE, validation=validation, progress=False)


def test_a_watched_number_needs_a_mode_unless_it_is_the_loss():
    with pytest.raises(ValueError, match="watch='accuracy' without mode"):
        Validation(counted, Rows(), watch="accuracy", patience=2)
    assert Validation(counted, Rows()).score({"loss": 2.0}) == -2.0


def counts_of(outputs, y, weights):
    kept = jnp.ones(y.shape) if weights is None else jnp.asarray(weights, jnp.float32)
    hit = jax.nn.one_hot(outputs.argmax(-1), 3) * kept[:, None]
    return jax.nn.one_hot(y, 3).T @ hit


def matrix_of(counts):
    return {"matrix": counts, "trace": jnp.trace(counts)}


COUNTS = Metric(counts_of, matrix_of)


@pytest.mark.parametrize("devices", [1, 8])
def test_metrics_that_are_no_means_add_up(key, devices):
    net, _, variables = parts(key, Rows()[0]["x"])
    objective = evaluation(net, metrics={"confusion": COUNTS})
    found = evaluate(objective, variables, Rows(3), mesh=mesh(devices=jax.devices()[:devices]))
    expected = np.zeros((3, 3))
    for rows in (Rows(3)[i] for i in range(3)):
        logits = net.apply(variables, rows["x"], train=False)[0].output
        np.add.at(expected, (rows["y"], np.asarray(logits).argmax(-1)), 1)
    np.testing.assert_array_equal(found["confusion/matrix"], expected)
    assert found["confusion/trace"] == np.trace(expected)


def test_a_step_tells_them_too_and_one_number_of_them_can_be_watched(key):
    net, _, variables = parts(key, Rows()[0]["x"])
    found = []
    for microbatch in (1, 4):
        step = make_step(finetune(net, metrics={"confusion": COUNTS}), optax.sgd(0.1), microbatch=microbatch)
        found.append(jax.jit(step)(step.init(variables, key), Rows()[0])[1])
    np.testing.assert_array_equal(found[0]["confusion/matrix"], found[1]["confusion/matrix"])
    objective = evaluation(net, metrics={"confusion": COUNTS})
    validation = Validation(objective, Rows(2), every=2, watch="confusion/trace", mode="max")
    ran = fit(step, step.init(variables, key), Rows(), steps=2, mesh=ONE, validation=validation, progress=False)
    assert ran.best == 2
    assert ran.history[0]["confusion/matrix"].shape == (3, 3)
    with pytest.raises(ValueError, match=r"watch='confusion/matrix' is an array of shape \(3, 3\)"):
        Validation(objective, Rows(2), watch="confusion/matrix", mode="max").score(ran.history[-1])
