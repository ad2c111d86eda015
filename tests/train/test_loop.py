"""The loop, on a least-squares problem small enough to be followed by hand."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from least_squares import Data, begun, objective, train

from jtl import backbones, heads
from jtl.data.arrays import arrays
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.params import select
from jtl.train import (
    Checkpoints,
    JsonLines,
    Validation,
    averaged,
    evaluate,
    fit,
    make_step,
    mesh,
    read_json_lines,
    variables,
)


@pytest.fixture(scope="module")
def start():
    return begun()


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

    original = loop.sharding.jit_phases

    def watched(*args):
        program, state = original(*args)
        run = Watched(program(0))
        return lambda number: run, state

    monkeypatch.setattr(loop.sharding, "jit_phases", watched)

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
    assert data.asked == [0]  # to compare it with the run's
    with pytest.raises(ValueError, match=r"steps=2: the run in .* has taken 3"):
        train(step, state, data, steps=2, checkpoints=saver)
    with pytest.raises(ValueError, match="the data to train on are empty"):
        train(step, state, Data(epoch=0), steps=5, checkpoints=saver)
    assert again.history == []
    assert np.array_equal(again.state.params["head"]["kernel"], first.state.params["head"]["kernel"])


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
    assert not [t for t in threading.enumerate() if t.name.startswith("jtl-prefetch")]


def test_a_validation_whose_labels_are_other_classes_is_refused(start):
    """Folders give labels by sorted names, so one without bees had wasps for bees."""
    step, state = start
    seen, judged = Data(), Data()
    seen.classes, judged.classes = ("ants", "bees", "wasps"), ("ants", "wasps")
    validation = Validation(objective, judged)
    with pytest.raises(ValueError, match="label 1 is 'wasps' in the validation data and 'bees' in the training data"):
        train(step, state, seen, steps=2, validation=validation)
    assert not seen.asked


def test_a_missing_watch_is_named_and_ema_is_what_is_validated(start, key):
    step, state = start
    with pytest.raises(ValueError, match=r"watch='f1'.*\['error', 'loss'\]"):
        train(step, state, Data(), steps=2, validation=Validation(objective, Data(), watch="f1", mode="max"))
    averaged_step = make_step(objective, optax.adam(0.05), ema=0.9)
    state = averaged_step.init(Variables(state.params, state.stats), key)
    done = train(averaged_step, state, Data(), steps=4, validation=Validation(objective, Data()))
    want = evaluate(objective, Variables(done.state.ema, done.state.stats), Data(), key=done.state.key)
    row = {k: v for k, v in done.history[-1].items() if k not in ("step", "split")}
    assert row == want


def test_what_is_validated_with_averages_is_what_averaged_gives(key):
    """Of some trainable parameters alone, and with running statistics: the line of the docs for a save."""
    draw = np.random.default_rng(0)
    data = arrays(draw.normal(size=(24, 8, 8, 1)).astype(np.float32), draw.integers(0, 3, 24), batch_size=8)
    net = network(backbone=backbones.conv4(4), head=heads.linear(3))
    step = make_step(finetune(net), optax.adam(0.05), trainable=select("head/.*", "backbone/stage4/.*"), ema=0.9)
    state = step.init(net.init(key, data[0]["x"]), key)
    judged = evaluation(net)
    done = train(step, state, data, steps=6, validation=Validation(judged, data))
    row = {k: v for k, v in done.history[-1].items() if k not in ("step", "split")}
    assert evaluate(judged, Variables(averaged(done.state), done.state.stats), data) == row
    assert evaluate(judged, variables(done.state), data)["loss"] != row["loss"]


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
