"""Checkpoints: what was saved comes back, and what was damaged is not used."""

import json
import logging
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_states import make, same

from jtl.params import flatten
from jtl.train import Checkpoints, fsdp, mesh
from jtl.train.checkpoint import arrays, manifest
from jtl.train.parallel.sharding import state_sharding


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with steps 1, 2 and 3; tests that harm it copy it first."""
    saver = Checkpoints(tmp_path_factory.mktemp("run"), recipe="lr = 1e-3")
    for step in (1, 2, 3):
        saver.save(make(step), score=-abs(step - 2.0), metrics={"accuracy": step / 4})
    saver.wait()
    return saver.directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_state_comes_back_bit_for_bit_and_can_be_donated(saved):
    saver = Checkpoints(saved)
    assert (saver.steps(), saver.best()) == ([1, 2, 3], 2)
    state = saver.restore(make())
    same(state, make(3))
    same(saver.restore(make(), step="best"), make(2))
    same(saver.restore(make(), step=1), make(1))
    # Unusable donations warn, and warnings are errors here; a donated buffer is gone.
    jax.jit(lambda s: s._replace(step=s.step + 1), donate_argnums=0)(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_arrays_without_elements_come_back(tmp_path):
    """As the factors of a module that AdaLoRA pruned to rank 0; Orbax writes none."""
    start, bare = make(), jnp.zeros((5, 0), jnp.bfloat16)
    state = start._replace(params={**start.params, "adapter": {"u": bare}})
    trains = {path: path != "adapter/u" for path in flatten(state.params)}
    saver = Checkpoints(tmp_path)
    saver.save(state, trains=trains)
    same(saver.restore(state, trains=trains), state)
    saver.save(state._replace(step=state.step + 1))
    same(saver.restore(state), state._replace(step=state.step + 1))
    found = saver.variables(averages=False).params["adapter"]["u"]
    assert (found.shape, found.dtype) == (bare.shape, bare.dtype)


def test_what_is_written_about_it(saved):
    about = Checkpoints(saved).about()
    assert (about["recipe"], about["metrics"], about["score"]) == ("lr = 1e-3", {"accuracy": 0.75}, -1.0)
    assert about["versions"]["jax"] == jax.__version__
    assert about["leaves"]["params/backbone/kernel"] == [[16, 8], "float32"]
    assert about["leaves"]["key"] == [[], "key<fry>"]


def test_parameters_alone_need_no_state(saved):
    params, stats = Checkpoints(saved).variables(step=2, averages=False)
    want = make(2)
    averages = Checkpoints(saved).variables(step=2).params  # by default what the run's validation judged
    np.testing.assert_array_equal(averages["head"]["bias"], want.ema["head"]["bias"].astype(jnp.bfloat16))
    assert averages["head"]["bias"].dtype == params["head"]["bias"].dtype
    np.testing.assert_array_equal(averages["backbone"]["kernel"], params["backbone"]["kernel"])
    assert jax.tree.structure((params, stats)) == jax.tree.structure((want.params, want.stats))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and jnp.array_equal(a, b), params, want.params))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, stats, want.stats))


def test_onto_other_devices(saved, tmp_path):
    rules = [("backbone/.*", fsdp(1)), ("head/.*", lambda shape, mesh: jax.P())]
    eight = mesh(fsdp=8)
    like = jax.device_put(make(), state_sharding(make(), eight, rules))
    state = Checkpoints(saved).restore(like)
    same(state, make(3))
    kernel = state.params["backbone"]["kernel"]
    assert kernel.sharding.spec == jax.P("fsdp")
    assert kernel.addressable_shards[0].data.shape == (2, 8)
    saver = Checkpoints(tmp_path)  # and back: saved from eight, restored on one
    saver.save(state)
    same(saver.restore(make()), make(3))


def harm_truncate(folder):
    big = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    big.write_bytes(big.read_bytes()[:-5])
    return big.name


def harm_flip(folder):
    big = max((p for p in (folder / "arrays" / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(big.read_bytes())
    data[len(data) // 2] ^= 1
    big.write_bytes(bytes(data))
    return big.name


def harm_missing(folder):
    path = folder / "arrays" / "params" / "manifest.ocdbt"
    path.unlink()
    return path.name


def harm_manifest(folder):
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body["step"] = 77
    path.write_text(json.dumps(body))
    return path.name


def harm_manifest_text(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])
    return path.name


HARMS = [harm_truncate, harm_flip, harm_missing, harm_manifest, harm_manifest_text]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_newest_is_named_and_the_one_before_is_used(copy, caplog, harm):
    saver = Checkpoints(copy)
    name = harm(saver.path(3))
    with caplog.at_level(logging.WARNING, "jtl.checkpoint"):
        same(saver.restore(make()), make(2))
    (line,) = {record.getMessage() for record in caplog.records}
    assert "step_00000003 is damaged and not used" in line
    assert name in line
    with pytest.raises(ValueError, match="step_00000003"):
        saver.restore(make(), step=3)


def test_every_flipped_byte_is_seen(copy):
    saver = Checkpoints(copy)
    rng = np.random.default_rng(0)
    files = sorted(p for p in saver.path(3).rglob("*") if p.is_file())
    for path in files:
        data = path.read_bytes()
        for _ in range(4 * bool(data)):
            broken = bytearray(data)
            broken[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(broken))
            with pytest.raises(ValueError, match=r"step_00000003"):
                saver.about(step=3)
        path.write_bytes(data)
    assert saver.about(step=3)["step"] == 3


def aged(directory):
    """Files that were not written just now."""
    for path in directory.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def read_in_full(monkeypatch):
    """The names of the folders whose files are read for their checksums, in order."""
    names, fault = [], manifest.fault

    def counted(folder, files):
        names.append(folder.name)
        return fault(folder, files)

    monkeypatch.setattr(manifest, "fault", counted)
    return names


def test_files_that_nobody_touched_are_read_once_for_their_checksums(copy, read_in_full):
    aged(copy)
    saver = Checkpoints(copy)
    for _ in range(2):
        same(saver.restore(make()), make(3))
        assert saver.about()["step"] == 3
        saver.variables(step="best")
    assert read_in_full == ["step_00000003", "step_00000002"]
    saver.save(make(4))
    assert saver.about(step="best")["step"] == 2
    assert read_in_full[-1] == "step_00000002"  # a save is a time at which older files are read again


@pytest.mark.parametrize("harm", [harm_truncate, harm_flip, harm_missing])
@pytest.mark.parametrize("times", ["its own", "kept"])
def test_damage_after_a_first_look_is_seen(copy, harm, times):
    aged(copy)
    saver = Checkpoints(copy)
    assert saver.about()["step"] == 3
    harm(saver.path(3))
    if times == "kept":  # as by a copy that keeps them; the change of the inode tells
        aged(copy)
    assert saver.about()["step"] == 2


def test_damage_in_a_linked_folder_is_seen(copy, tmp_path):
    """As where arrays were moved to another disk: the link itself does not change with what it shows."""
    step = copy / "step_00000003"
    place = next(path for path in sorted(step.iterdir()) if path.is_dir())
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    aged(copy)
    os.utime(place, (1e9, 1e9), follow_symlinks=False)
    saver = Checkpoints(copy)
    assert saver.about()["step"] == 3
    harm_flip(step)
    assert saver.about()["step"] == 2


def test_a_young_file_is_read_again(copy, read_in_full):
    aged(copy)
    (copy / "step_00000003" / "arrays" / "_CHECKPOINT_METADATA").touch()
    saver = Checkpoints(copy)
    for _ in range(2):
        saver.about()
    assert read_in_full == ["step_00000003"] * 2


def unread(folder):
    """Orbax lacks a file, and the checksums are those of the files that are there."""
    (folder / "arrays" / "rest" / "_METADATA").unlink()
    manifest.write(folder, {name: part for name, part in manifest.read(folder).items() if name != "files"})


def test_one_that_orbax_does_not_read_is_as_a_damaged_one(copy, caplog):
    unread(copy / "step_00000003")
    saver = Checkpoints(copy)
    with pytest.raises(ValueError, match=r"step_00000003: its files are those .* Orbax [\d.]+ does not read") as told:
        saver.restore(make(), step=3)
    assert len(str(told.value)) < 700
    same(saver.restore(make()), make(2))
    assert "step_00000003 is damaged and not used" in caplog.text
    caplog.clear()
    same(saver.restore(make()), make(2))
    assert not caplog.text  # it is known, and not read again
    saver.save(make(3))  # the run goes on, and writes it anew
    saver.wait()
    same(saver.restore(make()), make(3))
    for step in (1, 2, 3):
        unread(copy / f"step_{step:08d}")
    with pytest.raises(FileNotFoundError, match=r"all of steps \[3, 2, 1\] are damaged: .*step_00000003: its files"):
        Checkpoints(copy).restore(make())


def test_all_damaged_or_none_there(copy, tmp_path):
    saver = Checkpoints(copy)
    for step in saver.steps():
        harm_truncate(saver.path(step))
    with pytest.raises(FileNotFoundError, match=r"no newest checkpoint in .*all of steps \[3, 2, 1\] are damaged"):
        saver.restore(make())
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        Checkpoints(tmp_path / "nowhere").restore(make())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 9 .*\[1, 2, 3\]"):
        saver.restore(make(), step=9)
    with pytest.raises(ValueError, match=r"is one checkpoint; give the one that holds it"):
        Checkpoints(saver.path(1))
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="every=0"):
        Checkpoints(tmp_path, every=0)


def test_a_damaged_one_is_written_again_and_does_not_crowd_out_good_ones(copy):
    saver = Checkpoints(copy, keep=2)
    harm_flip(saver.path(3))
    saver.restore(make())
    saver.save(make(4))
    saver.wait()
    assert saver.steps() == [2, 3, 4], "the newest two intact ones, the best is one of them, the damaged one stays"
    fresh = Checkpoints(copy, keep=2)
    fresh.save(make(3))
    same(fresh.restore(make(), step=3), make(3))


def test_an_unfinished_save_does_not_count_and_is_cleared_away(copy):
    saver = Checkpoints(copy)
    (saver.path(4) / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    (saver.path(3) / "manifest.json").unlink()
    assert saver.steps() == [1, 2]
    same(saver.restore(make()), make(2))
    saver.save(make(5))
    saver.wait()
    assert sorted(p.name for p in copy.iterdir()) == ["step_00000001", "step_00000002", "step_00000005"]


@pytest.mark.parametrize("harm", ["removed", "manifest", "arrays"])
def test_what_is_no_longer_whole_on_disk_is_written_again(tmp_path, harm, caplog):
    saver = Checkpoints(tmp_path / "run")
    saver.save(make(4))
    saver.wait()
    if harm == "removed":
        shutil.rmtree(tmp_path / "run")
    elif harm == "manifest":
        (saver.path(4) / manifest.NAME).write_text("{}")
    else:
        unread(saver.path(4))
    saver.save(make(4), score=0.5)
    saver.wait()
    same(Checkpoints(tmp_path / "run").restore(make(), step="best"), make(4))
    assert ("damaged and written again" in caplog.text) == (harm != "removed")


def test_a_score_of_nan_in_an_older_file_is_no_best(copy):
    content = manifest.read(copy / "step_00000001")
    manifest.write(copy / "step_00000001", content | {"score": float("nan")})
    assert Checkpoints(copy).best() == 2


@pytest.mark.parametrize("name", ["ants [v2]", "a*", "a?"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(name, tmp_path):
    """Of the first it wrote folders that nobody can read, and sealed them."""
    with pytest.raises(ValueError, match=r"a checkpoint's path may not have"):
        Checkpoints(tmp_path / name / "run")


def test_a_save_does_not_see_what_happens_after_it(tmp_path):
    saver = Checkpoints(tmp_path)
    state = make(5)
    step = jax.jit(lambda s: jax.tree.map(lambda a: a * 0 if a.dtype == jnp.float32 else a, s), donate_argnums=0)
    saver.save(state)
    state = step(state._replace(key=jnp.zeros(())))  # donates the buffers while the save is in flight
    saver.wait()
    same(saver.restore(make()), make(5))


def test_another_state_is_refused_by_leaf_and_both_shapes(saved):
    saver = Checkpoints(saved)
    with pytest.raises(
        ValueError, match=r"'params/backbone/kernel' is float32\(16, 8\) in .* and float32\(16, 9\) here"
    ):
        saver.restore(make(width=9))
    state = make()
    with pytest.raises(ValueError, match=r"does not hold 'params/critic'.*variables\(\)"):
        saver.restore(state._replace(params={**state.params, "critic": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"holds 'ema/head/bias' and 0 more leaves that this state has not"):
        saver.restore(state._replace(ema={}))


def test_a_save_that_fails_says_so_at_the_next_wait(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(manifest, "write", full)
    saver = Checkpoints(tmp_path)
    saver.save(make(1))
    with pytest.raises(manifest.NotSaved, match=r"saving step 1 into .* failed: OSError.*no space left"):
        saver.wait()
    assert saver.steps() == []
    monkeypatch.undo()
    saver.save(make(1))
    saver.wait()
    assert saver.steps() == [1]


def test_folders_are_there_when_a_save_returns(tmp_path):
    """Orbax's threads that wait for folders hold the process for minutes, where a renamed parent hides them."""
    saver, state = Checkpoints(tmp_path), make(1)
    saver.save(state)
    assert {path.name for path in tmp_path.glob("step_00000001/arrays*/*")} >= {"params", "rest"}
    saver.wait()


def test_frozen_parameters_that_cannot_be_written_are_told(tmp_path, monkeypatch):
    def write(*_):
        raise ValueError("NOT_FOUND: Error writing local file")  # as TensorStore says it

    monkeypatch.setattr(arrays, "write_later", write)
    state = make(1)
    trains = {path: False for path in flatten(state.params)}
    with pytest.raises(manifest.NotSaved, match=r"saving frozen_\w+ into .* failed: .*Error writing local file"):
        Checkpoints(tmp_path).save(state, trains=trains)
    assert Checkpoints(tmp_path).steps() == []
