"""What a run does not train is written once, and comes back with every step."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.train import Checkpoints, State, fsdp, mesh
from jtl.train.checkpoint import manifest
from jtl.train.parallel.sharding import state_sharding

TRAINS = {"backbone/kernel": False, "adapter/a": True, "adapter/b": True}


def make(step=0, frozen=0):
    """A state of which 99 % of the numbers are frozen: 4 MB, and 40 kB that learn."""

    def draw(seed, *shape):
        return jax.random.normal(jax.random.key(seed), shape)

    params = {
        "backbone": {"kernel": draw(frozen, 1000, 1000)},
        "adapter": {"a": draw(100 + step, 1000, 5), "b": draw(200 + step, 5, 1000)},
    }
    opt = (jax.tree.map(lambda a: a * 2, params["adapter"]),)
    return State(jnp.int32(step), params, {"seen": jnp.int32(step)}, opt, jax.random.key(step), {})


def same(a, b):
    def raw(s):
        return s._replace(key=jax.random.key_data(s.key))

    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, raw(a), raw(b))


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def frozen_in(directory):
    return sorted(path for path in directory.iterdir() if path.name.startswith("frozen_"))


def flip(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 1 and 2 of one run; tests that harm it copy it first."""
    saver = Checkpoints(tmp_path_factory.mktemp("run"))
    for step in (1, 2):
        saver.save(make(step), trains=TRAINS)
    saver.wait()
    return saver.directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_the_second_save_writes_what_trains_alone(tmp_path):
    saver = Checkpoints(tmp_path)
    written = []
    for step in (1, 2):
        before = size(tmp_path)
        saver.save(make(step), trains=TRAINS)
        saver.wait()
        written.append(size(tmp_path) - before)
    assert written[1] < 0.05 * written[0], written
    # 10,000 parameters that learn and one number of the optimizer's for each, besides manifests and Orbax's own files.
    assert written[1] < 4 * 20_000 + 20_000, written
    assert len(frozen_in(tmp_path)) == 1


def test_whole_states_and_variables_come_back(saved):
    saver = Checkpoints(saved)
    same(saver.restore(make(frozen=5)), make(2))
    same(saver.restore(make(), step=1), make(1))
    same(saver.restore(make(), trains=TRAINS), make(2))
    params, stats = saver.variables(step=1)
    assert jax.tree.structure((params, stats)) == jax.tree.structure((make().params, make().stats))
    jax.tree.map(np.testing.assert_array_equal, params, make(1).params)
    about = saver.about()
    assert about["leaves"]["params/backbone/kernel"] == [[1000, 1000], "float32"]
    assert about["frozen"] == frozen_in(saved)[0].name
    state = saver.restore(make())
    jax.jit(lambda s: s._replace(step=s.step + 1), donate_argnums=0)(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_onto_other_devices_and_back(saved, tmp_path):
    rules = [("backbone/.*", fsdp(1)), (".*", lambda shape, mesh: jax.P())]
    like = jax.device_put(make(), state_sharding(make(), mesh(fsdp=8), rules))
    state = Checkpoints(saved).restore(like, trains=TRAINS)
    same(state, make(2))
    assert state.params["backbone"]["kernel"].addressable_shards[0].data.shape == (125, 1000)
    copied = shutil.copytree(saved, tmp_path / "run")
    saver = Checkpoints(copied)
    saver.save(state._replace(step=state.step + 1), trains=TRAINS)
    saver.wait()
    assert frozen_in(copied) == [copied / frozen_in(saved)[0].name], "the same values, cut over eight devices"


def test_a_new_process_finds_what_is_there(copy):
    (folder,) = frozen_in(copy)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    saver = Checkpoints(copy)
    saver.save(make(3), trains=TRAINS)
    saver.wait()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


def test_other_values_get_another_folder_and_old_ones_go_with_their_last_step(copy):
    saver = Checkpoints(copy, keep=2)
    (first,) = frozen_in(copy)
    saver.save(make(3, frozen=1), trains=TRAINS)
    saver.wait()
    assert saver.steps() == [2, 3]
    assert len(frozen_in(copy)) == 2
    same(saver.restore(make(), step=2), make(2))
    same(saver.restore(make(), step=3), make(3, frozen=1))
    saver.save(make(4, frozen=1), trains=TRAINS)
    saver.wait()
    assert saver.steps() == [3, 4]
    (second,) = frozen_in(copy)
    assert second != first
    saver.save(make(5), trains=None)  # all of it
    saver.save(make(6), trains=None)
    saver.wait()
    assert frozen_in(copy) == []
    same(saver.restore(make()), make(6))


def test_a_score_comes_later_and_other_frozen_values_are_written(tmp_path):
    saver = Checkpoints(tmp_path)
    saver.save(make(3), trains=TRAINS)
    saver.save(make(3), trains=TRAINS, score=1.0)
    assert (saver.best(), len(frozen_in(tmp_path))) == (3, 1)
    saver.save(make(3, frozen=5), trains=TRAINS)
    saver.wait()
    same(Checkpoints(tmp_path).restore(make()), make(3, frozen=5))


def test_the_best_keeps_its_frozen_folder(tmp_path):
    saver = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        saver.save(make(step, frozen=step), score=-step, trains=TRAINS)
    saver.wait()
    assert saver.steps() == [1, 3]
    assert len(frozen_in(tmp_path)) == 2
    same(saver.restore(make(), step="best"), make(1, frozen=1))


def test_nothing_goes_while_a_manifest_cannot_be_read(copy):
    (copy / "step_00000002" / "manifest.json").write_text("{")
    saver = Checkpoints(copy, keep=1)
    saver.restore(make())
    saver.save(make(3, frozen=1), trains=TRAINS)
    saver.wait()
    assert len(frozen_in(copy)) == 2


def test_a_damaged_folder_is_named_and_a_step_of_another_is_used(copy, caplog):
    saver = Checkpoints(copy)
    saver.save(make(3, frozen=1), trains=TRAINS)
    saver.wait()
    newest = copy / saver.about(step=3)["frozen"]
    path = flip(newest)
    saver = Checkpoints(copy)
    with caplog.at_level(logging.WARNING, "jtl.checkpoint"):
        same(saver.restore(make()), make(2))
    (line,) = {record.getMessage() for record in caplog.records}
    assert "step_00000003 is damaged and not used" in line
    assert str(path) in line
    with pytest.raises(manifest.Damaged, match=f"{newest.name}.* has changed"):
        saver.restore(make(), step=3)
    with pytest.raises(manifest.Damaged, match=f"{newest.name}.* has changed"):
        saver.variables(step=3)


@pytest.mark.parametrize("harm", ["flip", "manifest", "gone"])
def test_where_all_steps_need_the_damaged_folder_the_error_names_it(copy, harm):
    (folder,) = frozen_in(copy)
    if harm == "flip":
        flip(folder)
    elif harm == "manifest":
        body = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(body | {"leaves": {}}))
    else:
        shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=rf"all of steps \[2, 1\] are damaged: .*{folder.name}"):
        Checkpoints(copy).restore(make())


def test_a_damaged_folder_is_written_again_by_the_next_save(copy, caplog):
    (folder,) = frozen_in(copy)
    flip(folder)
    saver = Checkpoints(copy)
    with caplog.at_level(logging.WARNING, "jtl.checkpoint"):
        saver.save(make(3), trains=TRAINS)
        saver.wait()
    assert f"{folder} is damaged and written again" in caplog.text
    for step in (1, 2, 3):
        same(Checkpoints(copy).restore(make(), step=step), make(step))


def test_a_folder_that_a_killed_save_left_is_written_again(tmp_path, caplog):
    saver = Checkpoints(tmp_path)
    saver.save(make(1), trains=TRAINS)
    saver.wait()
    (folder,) = frozen_in(tmp_path)
    shutil.rmtree(tmp_path / "step_00000001")
    (folder / "manifest.json").unlink()
    (folder / "arrays.orbax-checkpoint-tmp").mkdir()
    with caplog.at_level(logging.WARNING, "jtl.checkpoint"):
        again = Checkpoints(tmp_path)
        again.save(make(1), trains=TRAINS)
        same(again.restore(make()), make(1))
    assert not caplog.records


def test_another_runs_weights_are_refused(saved):
    saver = Checkpoints(saved)
    with pytest.raises(ValueError, match=r"'backbone/kernel' and 0 more frozen parameters are not those of the run in"):
        saver.restore(make(frozen=1), trains=TRAINS)
    with pytest.raises(ValueError, match=r"trains and the parameters differ at 'adapter/b'"):
        saver.save(make(7), trains={"backbone/kernel": False, "adapter/a": True})


def test_a_run_that_was_saved_whole_goes_on_apart(tmp_path):
    """As every run of jtl 0.1.0 was."""
    saver = Checkpoints(tmp_path)
    saver.save(make(1))
    saver.wait()
    path = tmp_path / "step_00000001"
    body = manifest.read(path)
    del body["frozen"], body["files"]
    manifest.write(path, body)
    saver = Checkpoints(tmp_path)
    same(saver.restore(make(frozen=1), trains=TRAINS), make(1))
    saver.save(make(2), trains=TRAINS)
    same(saver.restore(make()), make(2))
    same(saver.restore(make(), step=1), make(1))
