"""The loop, on a least-squares problem small enough to be followed by hand."""

import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.model import Variables
from jtl.reduce import mean
from jtl.train import (
    Checkpoints,
    JsonLines,
    NonFiniteLoss,
    Validation,
    evaluate,
    fit,
    make_step,
    mesh,
    read_json_lines,
)
from jtl.typing import Aux


def objective(params, stats, batch, key, step):
    out = batch["x"] @ params["head"]["kernel"] + params["head"]["bias"]
    noise = jax.random.normal(key, out.shape) * 0.01
    loss = mean((out + noise - batch["y"]) ** 2, batch["mask"])
    return loss, Aux({"seen": stats["seen"] + 1}, {"error": mean(jnp.abs(out - batch["y"]), batch["mask"])})


class Data:
    """Eight rows a batch, a function of the step; counts how often it was asked."""

    def __init__(self, epoch=4, poison=None):
        self.epoch, self.poison, self.asked = epoch, poison, []

    def __len__(self):
        return self.epoch

    def __getitem__(self, step):
        self.asked.append(step)
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, 3)).astype(np.float32)
        y = x @ np.float32([1, -2, 3]) + 1
        if step == self.poison:
            x[0] = np.inf
        return {"x": x, "y": y, "mask": np.arange(8) < 8 - step % 3}


@pytest.fixture(scope="module")
def start():
    step = make_step(objective, optax.adam(0.05))
    params = {"head": {"kernel": jnp.zeros(3), "bias": jnp.zeros(())}}
    return step, step.init(Variables(params, {"seen": jnp.zeros((), jnp.int32)}), jax.random.key(0))


def train(step, state, data, **options):
    """`fit` on two devices, which compile faster than eight, and silent."""
    return fit(step, state, data, **({"mesh": mesh(devices=jax.devices()[:2]), "progress": False} | options))


def test_it_takes_the_steps_that_a_plain_loop_takes(start):
    step, state = start
    done = fit(step, state, Data(), steps=11, progress=False)
    plain, run = state, jax.jit(step.update)
    losses = []
    for i in range(11):
        plain, metrics = run(plain, jax.tree.map(jnp.asarray, Data()[i]))
        losses.append(float(metrics["loss"]))
    # Eight devices add up eight rows in another order than one device: float32 rounding, no more.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), done.state.params, plain.params)
    np.testing.assert_allclose([row["loss"] for row in done.history], losses, rtol=1e-5)
    assert [row["step"] for row in done.history] == list(range(1, 12))
    assert int(done.state.stats["seen"]) == int(done.state.step) == 11
    assert int(state.step) == 0, "the state that was given is still alive"


def test_one_trace_for_the_whole_run(start):
    _, state = start
    traces = []

    def counted(*args):
        traces.append(1)
        return objective(*args)

    judged = []

    def judge(*args):
        judged.append(1)
        return objective(*args)

    validation = Validation(judge, Data(epoch=3), every=5)
    train(make_step(counted, optax.adam(0.05)), state, Data(), steps=20, validation=validation)
    assert (len(traces), len(judged)) == (1, 1)


def test_metrics_of_a_step_are_read_after_the_next_is_dispatched(start, monkeypatch):
    step, state = start
    events = []

    from jtl.train import loop

    class Watched:
        def __init__(self, run):
            self.run, self.taken = run, 0

        def __call__(self, *args):
            raise AssertionError("the loop calls what it compiled ahead of time")

        def lower(self, *args):
            compiled = self.run.lower(*args).compile()

            class Compiled:
                def compile(inner):
                    return self.call(compiled)

            return Compiled()

        def call(self, compiled):
            def take(*args):
                self.taken += 1
                events.append(("take", self.taken))
                return compiled(*args)

            return take

    original = loop.sharding.jit_step

    def watched(*args):
        run, placed = original(*args)
        return Watched(run), placed

    monkeypatch.setattr(loop.sharding, "jit_step", watched)

    def hook(moment):
        events.append(("read", moment.step))

    train(step, state, Data(), steps=5, hooks=[hook])
    expected = [("take", 1)]
    for n in range(2, 6):
        expected += [("take", n), ("read", n - 1)]
    assert events == [*expected, ("read", 5)]


def test_data_is_asked_once_a_step_and_ahead_of_use(start):
    step, state = start
    data, ahead = Data(), []
    train(step, state, data, steps=6, hooks=[lambda moment: ahead.append(max(data.asked) >= moment.step)])
    assert data.asked == list(range(6))
    assert all(ahead[:-1]), "batch n (from 0) is made before the numbers of step n are read"


def test_resuming_gives_the_same_bits_and_the_same_rows(start, tmp_path):
    step, state = start
    whole = train(step, state, Data(), steps=12)
    rows = tmp_path / "rows.jsonl"

    def saver():
        return Checkpoints(tmp_path / "run", every=3)

    train(step, state, Data(), steps=7, checkpoints=saver(), records=[JsonLines(rows)])
    with open(rows, "a") as file:
        file.write('{"step": 8, "split": "train", "loss": 7}\n{"step": 9, "spl')  # what a killed run leaves
    done = train(step, state, Data(), steps=12, checkpoints=saver(), records=[JsonLines(rows)])
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), done.state._replace(key=0), whole.state._replace(key=0))
    assert all(jax.tree.leaves(same))
    assert read_json_lines(rows) == whole.history
    assert done.history == whole.history[7:]


def test_a_finished_run_is_not_trained_further(start, tmp_path):
    step, state = start
    saver = Checkpoints(tmp_path)
    first = train(step, state, Data(), steps=3, checkpoints=saver)
    data = Data()
    again = train(step, state, data, steps=3, checkpoints=saver)
    assert data.asked == []
    with pytest.raises(ValueError, match=r"steps=2: the run in .* has taken 3"):
        train(step, state, data, steps=2, checkpoints=saver)
    with pytest.raises(ValueError, match="the data to train on are empty"):
        train(step, state, Data(epoch=0), steps=5, checkpoints=saver)
    assert again.history == []
    assert np.array_equal(again.state.params["head"]["kernel"], first.state.params["head"]["kernel"])


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

    with pytest.raises(NonFiniteLoss, match=r"loss of step 3 is nan; all parameters are still finite.*no checkpoint"):
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_exits_with_0(start, tmp_path, capsys, number):
    step, state = start

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


def test_a_batch_that_does_not_divide_or_changes_shape_is_named(start):
    step, state = start

    class Odd(Data):
        def __getitem__(self, i):
            return jax.tree.map(lambda a: a[: 8 if i < 2 else 4], super().__getitem__(i))

    one = mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"batch 2: 'mask' is bool\(4,\), and was bool\(8,\) in batch 0; .*pad"):
        train(step, state, Odd(), steps=5, mesh=one)
    with pytest.raises(ValueError, match=r"does not divide over 3 devices"):
        train(step, state, Data(), steps=5, mesh=mesh(devices=jax.devices()[:3]))
    with pytest.raises(ValueError, match="steps=0"):
        train(step, state, Data(), steps=0)


def test_the_error_of_the_data_comes_through_with_its_step(start):
    step, state = start

    class Broken(Data):
        def __getitem__(self, i):
            if i == 3:
                raise FileNotFoundError("cat_17.png")
            return super().__getitem__(i)

    with pytest.raises(FileNotFoundError, match=r"cat_17.png") as caught:
        train(step, state, Broken(), steps=5)
    assert caught.value.__notes__ == ["while batch 3 of the data was made"]
    assert not [t for t in threading.enumerate() if t.name == "jtl-feed"]


def test_a_missing_watch_is_named_and_ema_is_what_is_validated(start, key):
    step, state = start
    with pytest.raises(ValueError, match=r"watch='f1'.*\['error', 'loss'\]"):
        train(step, state, Data(), steps=2, validation=Validation(objective, Data(), watch="f1"))
    averaged_step = make_step(objective, optax.adam(0.05), ema=0.9)
    state = averaged_step.init(Variables(state.params, state.stats), key)
    done = train(averaged_step, state, Data(), steps=4, validation=Validation(objective, Data()))
    want = evaluate(objective, Variables(done.state.ema, done.state.stats), Data(), key=done.state.key)
    row = {k: v for k, v in done.history[-1].items() if k not in ("step", "split")}
    assert row == want


def test_json_lines_name_a_broken_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_json_lines(path)
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"st')
    assert read_json_lines(path) == [{"step": 1}]


def test_a_transfer_that_nobody_asked_for_is_an_error_in_the_loop(start):
    class Careless:
        def start(self, step):
            pass

        def write(self, step, split, metrics):
            jnp.zeros(2) + np.ones(2, np.float32)

        def close(self):
            pass

    step, state = start
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(step, state, Data(), steps=3, records=[Careless()])


def test_after_an_error_the_save_under_way_still_counts(start, tmp_path):
    step, state = start

    def hook(moment):
        if moment.step == 3:
            raise RuntimeError("from a hook")

    saver = Checkpoints(tmp_path, every=3)
    with pytest.raises(RuntimeError, match="from a hook"):
        train(step, state, Data(), steps=9, checkpoints=Checkpoints(tmp_path / "never", every=3), hooks=[hook])

    def late(moment):
        return hook(moment._replace(step=moment.step - 1))

    with pytest.raises(RuntimeError, match="from a hook"):
        train(step, state, Data(), steps=9, checkpoints=saver, hooks=[late])
    saver.wait()
    assert saver.steps() == [3]
