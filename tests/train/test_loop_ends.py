"""What ends a run, and what a later one goes on from: patience, signals, numbers that are not finite."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from least_squares import Data, begun, objective, train

from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.train import (
    Checkpoints,
    JsonLines,
    NonFiniteLoss,
    Validation,
    make_step,
    read_json_lines,
)
from jtl.typing import Aux


@pytest.fixture(scope="module")
def start():
    return begun()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_patience_stops_and_the_best_is_kept(start, tmp_path, mode):
    step, state = start
    scores = iter([3.0, 1.0, 2.0, 2.0, 0.0] if mode == "min" else [3.0, 5.0, 2.0, 2.0, 9.0])

    class Script:
        def __len__(self):
            return 1

        def __getitem__(self, i):
            value = np.full(8, next(scores), np.float32)
            return {"value": value}

    def judge(params, stats, batch, key, step):
        return mean(batch["value"]), Aux(stats, {"score": mean(batch["value"])})

    saver = Checkpoints(tmp_path, keep=1)
    validation = Validation(judge, Script(), every=2, watch="score", mode=mode, patience=2)
    done = train(step, state, Data(), steps=20, validation=validation, checkpoints=saver)
    assert (done.stopped, done.best, int(done.state.step)) == ("patience", 4, 8)
    assert saver.steps() == [4, 8]
    assert saver.best() == 4
    assert saver.about(step="best")["metrics"]["score"] == (1.0 if mode == "min" else 5.0)


def test_patience_goes_on_after_a_restart(start, tmp_path):
    step, state = start

    class Worse(Data):
        def __getitem__(self, i):
            return super().__getitem__(0)

    def judge(params, stats, batch, key, step):
        return mean(jnp.full(8, 1.0) * stats["seen"]), Aux(stats, {})

    validation = Validation(judge, Worse(1), every=2, patience=3)
    train(step, state, Data(), steps=5, validation=validation, checkpoints=Checkpoints(tmp_path))
    saver = Checkpoints(tmp_path)
    done = train(step, state, Data(), steps=99, validation=validation, checkpoints=saver)
    assert (done.best, int(done.state.step), done.stopped) == (2, 8, "patience")
    again = train(step, state, Data(), steps=99, validation=validation, checkpoints=Checkpoints(tmp_path))
    assert (again.best, int(again.state.step), again.stopped, again.history) == (2, 8, "patience", [])


def test_scores_of_another_validation_are_not_compared(start, tmp_path):
    """An accuracy of 0.9 stayed the best of losses, which are negated, and patience ended the run."""
    step, state = start

    def judge(params, stats, batch, key, step):
        return mean(jnp.ones(8)), Aux(stats, {"score": mean(jnp.full(8, 0.9))})

    def resumed(steps, validation=None):
        return train(step, state, Data(), steps=steps, validation=validation, checkpoints=Checkpoints(tmp_path))

    resumed(1)
    first = Validation(judge, Data(1), every=1, watch="score", mode="max")
    assert resumed(2, first).best == 1  # a run that had none may begin to validate
    for other, what in (
        (Validation(judge, Data(1), every=1), "validation/watch: score -> loss"),
        (Validation(judge, Data(1), every=1, watch="score", mode="min"), "validation/mode: max -> min"),
        (Validation(judge, Data(2), every=1, watch="score", mode="max"), "validation/data/size: 1 batches -> 2"),
    ):
        with pytest.raises(ValueError, match=what):
            resumed(3, other)
    assert int(resumed(3).state.step) == 3


@pytest.mark.parametrize("steps", [4, 8])
def test_a_validation_that_a_signal_left_out_is_done_at_the_restart(start, tmp_path, steps):
    """So the best, and the records, are those of a run that nobody stopped."""
    step, state = start

    def hook(moment):
        if moment.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def judge(params, stats, batch, key, step):
        return mean(jnp.abs(stats["seen"] - 4.0) * jnp.ones(8)), Aux(stats, {})

    def run(hooks=()):
        saver = Checkpoints(tmp_path, keep=1)
        validation, rows = Validation(judge, Data(1), every=2), JsonLines(tmp_path / "rows.jsonl")
        options = {"validation": validation, "checkpoints": saver, "records": [rows], "hooks": hooks}
        return train(step, state, Data(), steps=steps, **options)

    with pytest.raises(SystemExit):
        run([hook])
    assert Checkpoints(tmp_path).about()["score"] is None
    assert run().best == 4
    assert Checkpoints(tmp_path).about(step="best")["step"] == 4
    rows = [(row["step"], row["split"]) for row in read_json_lines(tmp_path / "rows.jsonl")]
    each = [[(i, "train")] + [(i, "validation")] * (i % 2 == 0) for i in range(1, steps + 1)]
    assert rows == [row for some in each for row in some]
    assert run().history == []


def test_a_validation_of_nan_is_no_best(start, tmp_path):
    step, state = start

    def judge(params, stats, batch, key, step):
        return mean(jnp.where(stats["seen"] > 2, jnp.nan, 1.0) * jnp.ones(8)), Aux(stats, {})

    saver = Checkpoints(tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"'loss' of the validation of step 4 is nan.*is .*step_00000002"):
        train(step, state, Data(), steps=9, validation=Validation(judge, Data(1), every=2), checkpoints=saver)
    assert saver.best() == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_names_what_is_needed(start, tmp_path):
    step, state = start
    saver = Checkpoints(tmp_path, every=2)
    with pytest.raises(NonFiniteLoss, match=r"loss of step 6 is (nan|inf).*'head/bias'.*step_00000004") as caught:
        train(step, state, Data(poison=5), steps=20, checkpoints=saver)
    assert "head/bias" in str(caught.value)
    assert saver.steps() == [2, 4]
    assert np.isfinite(saver.restore(state).params["head"]["kernel"]).all()


def test_a_loss_that_is_not_finite_over_finite_parameters_says_so(start):
    _, state = start

    def judge(params, stats, batch, key, step):
        loss, aux = objective(params, stats, batch, key, step)
        return {"good": loss, "bad": jnp.where(step == 2, jnp.nan, 0.0)}, aux

    with pytest.raises(NonFiniteLoss, match=r"loss of step 3 is nan; the whole state is still finite.*no checkpoint"):
        train(make_step(judge, optax.adam(0.05)), state, Data(), steps=9)


def test_bad_parameters_are_never_saved(start, tmp_path):
    _, state = start
    tx = optax.chain(optax.adam(0.05), optax.stateless(lambda u, p: jax.tree.map(lambda a: a * jnp.nan, u)))
    step = make_step(objective, tx)
    state = step.init(Variables(state.params, state.stats), state.key)
    saver = Checkpoints(tmp_path, every=1)
    with pytest.raises(NonFiniteLoss, match=r"after step 1, whose loss was finite.*'head/bias'.*none was saved"):
        train(step, state, Data(), steps=9, checkpoints=saver)
    assert saver.steps() == []


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_last_update_that_is_not_finite_ends_the_run_too(start, tmp_path, checkpoints):
    """No later loss would tell."""
    _, state = start
    step = make_step(objective, optax.sgd(lambda step: jnp.where(step == 4, jnp.inf, 0.01)))
    state = step.init(Variables(state.params, state.stats), state.key)
    options = {"checkpoints": Checkpoints(tmp_path, every=2)} if checkpoints else {}
    kept = "the last good checkpoint is .*step_00000004" if checkpoints else "no checkpoint was saved"
    with pytest.raises(NonFiniteLoss, match=f"after step 5, whose loss was finite, the state is not.*{kept}"):
        train(step, state, Data(), steps=5, **options)


def test_what_is_not_finite_beside_the_parameters_is_never_saved(tmp_path):
    """A pixel of 1e25 is finite in the loss of a saturating network, and its square is not: Adam's second moment."""

    def saturating(params, stats, batch, key, step):
        del key, step
        return jnp.tanh(batch["x"] @ params["w"]).sum() * 1e25, Aux({"seen": stats["seen"] + batch["x"].sum()})

    step = make_step(saturating, optax.adam(1e-3))
    state = step.init(Variables({"w": jnp.zeros(3)}, {"seen": jnp.zeros(())}), jax.random.key(0))

    class Rows:
        def __len__(self):
            return 1

        def __getitem__(self, step):
            return {"x": np.ones((8, 3), np.float32)}

    saver = Checkpoints(tmp_path, every=1)
    with pytest.raises(NonFiniteLoss, match=r"after step 1, whose loss was finite.*'opt/0/0/nu/w'.*none was saved"):
        train(step, state, Rows(), steps=2, checkpoints=saver)
    assert saver.steps() == []


def test_an_optimizer_may_begin_with_an_infinite_number(start, tmp_path):
    """The best loss so far of reduce_on_plateau."""
    _, state = start
    step = make_step(objective, optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(patience=2)))
    state = step.init(Variables(state.params, state.stats), state.key)
    saver = Checkpoints(tmp_path, every=2)
    train(step, state, Data(), steps=4, checkpoints=saver)
    assert saver.steps() == [2, 4]


def test_a_process_that_ignores_sighup_goes_on_ignoring_it(start, tmp_path):
    step, state = start
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hooks = [lambda moment: os.kill(os.getpid(), signal.SIGHUP)]
        done = train(step, state, Data(), steps=3, checkpoints=Checkpoints(tmp_path), hooks=hooks)
        assert int(done.state.step) == 3
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_exits_with_0(start, tmp_path, capsys, number, request):
    step, state = start
    if number == signal.SIGHUP:  # these tests may run where it is ignored, as under nohup
        ignored = signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, ignored))

    def hook(moment):
        if moment.step == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    saver = Checkpoints(tmp_path, every=100)
    with pytest.raises(SystemExit) as caught:
        train(step, state, Data(), steps=20, checkpoints=saver, hooks=[hook], progress=True)
    assert caught.value.code == 0
    assert signal.getsignal(number) is before
    (saved,) = saver.steps()
    assert 5 < saved < 20
    assert f"saved step {saved}" in capsys.readouterr().out
    done = train(step, state, Data(), steps=20, checkpoints=saver)
    whole = train(step, state, Data(), steps=20)
    assert np.array_equal(done.state.params["head"]["kernel"], whole.state.params["head"]["kernel"])


def test_in_another_thread_no_handler_is_installed(start, tmp_path):
    step, state = start
    before, done = signal.getsignal(signal.SIGTERM), []

    def hook(moment):
        done.append(signal.getsignal(signal.SIGTERM))

    def run():
        return train(step, state, Data(), steps=2, checkpoints=Checkpoints(tmp_path), hooks=[hook])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [before] * 2
