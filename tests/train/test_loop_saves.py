"""What `fit` saves: what is frozen once, and every save to its end, whatever ends the run."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from least_squares import Data, begun, objective, train

from jtl.model import Variables
from jtl.params import select
from jtl.train import Checkpoints, NonFiniteLoss, Refresh, Validation, make_step
from jtl.train.checkpoint import arrays, manifest


@pytest.fixture(scope="module")
def start():
    return begun()


def frozen(bias=1.0, seed=0):
    """A run whose kernel alone learns."""
    step = make_step(objective, optax.adam(0.05), trainable=select("head/kernel"))
    params = {"head": {"kernel": jnp.zeros(3), "bias": jnp.float32(bias)}}
    return step, step.init(Variables(params, {"seen": jnp.zeros((), jnp.int32)}), jax.random.key(seed))


def test_what_no_step_trains_is_written_once_and_a_resumed_run_ends_with_the_same_bits(tmp_path):
    step, state = frozen()
    whole = train(step, state, Data(), steps=7).state
    train(step, state, Data(), steps=4, checkpoints=Checkpoints(tmp_path, every=2))
    resumed = train(step, state, Data(), steps=7, checkpoints=Checkpoints(tmp_path, every=2)).state
    for a, b in zip(
        jax.tree.leaves((whole.params, whole.opt)), jax.tree.leaves((resumed.params, resumed.opt)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    (folder,) = tmp_path.glob("frozen_*")
    assert sorted(manifest.read(folder)["leaves"]) == ["params/head/bias"]
    assert [Checkpoints(tmp_path).about(step=s)["frozen"] for s in (4, 6, 7)] == [folder.name] * 3


def test_a_resume_reads_the_files_of_a_checkpoint_once(tmp_path, monkeypatch):
    """It asks for the run's description, the state and the best score."""
    step, state = frozen()
    validation = Validation(objective, Data())
    train(step, state, Data(), steps=4, validation=validation, checkpoints=Checkpoints(tmp_path, every=2))
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))  # files that were not written just now
    names, fault = [], manifest.fault
    monkeypatch.setattr(manifest, "fault", lambda folder, files: names.append(folder.name) or fault(folder, files))
    train(step, state, Data(), steps=4, validation=validation, checkpoints=Checkpoints(tmp_path, every=2))
    assert len(names) == len(set(names)), names
    assert "step_00000004" in names


def test_a_run_with_other_frozen_weights_does_not_go_on(tmp_path):
    step, state = frozen()
    train(step, state, Data(), steps=2, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"'head/bias' and 0 more frozen parameters are not those of the run in"):
        train(*frozen(bias=2.0), Data(), steps=4, checkpoints=Checkpoints(tmp_path))


def test_a_refresh_may_change_what_no_step_trains(tmp_path):
    """Each value is written once; a resumed run goes on with the one that it had."""
    step, state = frozen()

    def more(state):
        return state._replace(params={"head": state.params["head"] | {"bias": state.params["head"]["bias"] + 1}})

    refresh = Refresh(more, every=2)
    whole = train(step, state, Data(), steps=6, refresh=refresh).state
    train(step, state, Data(), steps=3, refresh=refresh, checkpoints=Checkpoints(tmp_path, every=1))
    done = train(step, state, Data(), steps=6, refresh=refresh, checkpoints=Checkpoints(tmp_path, every=1)).state
    jax.tree.map(np.testing.assert_array_equal, done.params, whole.params)
    assert float(done.params["head"]["bias"]) == 4.0
    assert [float(Checkpoints(tmp_path).variables(step=s).params["head"]["bias"]) for s in (4, 5, 6)] == [3.0, 4.0, 4.0]
    assert len(list(tmp_path.glob("frozen_*"))) == 2


def test_a_run_in_a_folder_that_was_removed_is_saved(start, tmp_path):
    step, state = start
    saver = Checkpoints(tmp_path / "run")
    train(step, state, Data(), steps=4, checkpoints=saver)
    shutil.rmtree(tmp_path / "run")
    train(step, state, Data(), steps=4, checkpoints=saver)
    assert saver.steps() == [4]


class Slow(Checkpoints):
    """Each save takes a while, so that it is in flight when the next step's numbers come."""

    def _finish(self, response, content):
        import time

        time.sleep(0.5)
        super()._finish(response, content)


class Broken(Data):
    def __getitem__(self, step):
        if step == 5:
            raise OSError("the disk of the data went away")
        return super().__getitem__(step)


def crash(moment):
    if moment.step == 5:
        raise RuntimeError("a hook's own error")


@pytest.mark.parametrize("where", ["hook", "loader"])
def test_an_error_does_not_end_a_save_that_is_in_flight(start, tmp_path, where):
    """Lost otherwise, and a second `fit` in the same process would write into the folders of the first."""
    step, state = start
    whole = train(step, state, Data(), steps=8).state
    data, hooks = (Data(), [crash]) if where == "hook" else (Broken(), [])
    with pytest.raises((RuntimeError, OSError), match=r"own error|went away"):
        train(step, state, data, steps=8, checkpoints=Slow(tmp_path, every=4), hooks=hooks)
    assert Checkpoints(tmp_path).steps() == [4]
    done = train(step, state, Data(), steps=8, checkpoints=Checkpoints(tmp_path, every=4)).state
    jax.tree.map(np.testing.assert_array_equal, done.params, whole.params)
    assert Checkpoints(tmp_path).steps() == [4, 8]


def test_the_step_before_a_batch_that_cannot_be_read_is_told(start):
    step, state = start
    seen = []
    with pytest.raises(OSError, match="went away"):
        train(step, state, Broken(epoch=9), steps=8, hooks=[lambda moment: seen.append(moment.step)])
    assert seen == [1, 2, 3, 4, 5]  # of the batches 0 to 4
    with pytest.raises(NonFiniteLoss, match="loss of step 5 is") as caught:
        train(step, state, Broken(epoch=9, poison=4), steps=8)
    assert isinstance(caught.value.__context__, OSError)


def test_a_save_that_fails_too_is_noted_on_the_error(start, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    step, state = start
    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(RuntimeError, match="own error") as caught:
        train(step, state, Data(), steps=8, checkpoints=Checkpoints(tmp_path, every=4), hooks=[crash])
    (note,) = [n for n in caught.value.__notes__ if "saving step 4" in n]
    assert "no space left" in note


def test_by_hand_the_last_save_is_waited_for(start, tmp_path):
    _, state = start
    with Slow(tmp_path) as saver:
        saver.save(state)
    assert Checkpoints(tmp_path).steps() == [0]
    assert arrays.named(state).keys() == saver.about()["leaves"].keys()
