"""A run's checkpoints as a source of weights."""

import json
import logging
import shutil

import jax
import made
import numpy as np
import optax
import pytest

from jtl.params import select
from jtl.pretrained.load import load
from jtl.train.checkpoint import manifest
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.step import make_step
from jtl.weights import WeightFileError, read


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The second checkpoint of a run has other weights than the first."""
    folder = tmp_path_factory.mktemp("run")
    loaded = load(made.folder(folder / "hf", made.RESNET))
    saved = Checkpoints(folder / "checkpoints", recipe="by hand")
    step = make_step(lambda *a: None, optax.adam(0.1))  # pyright: ignore
    state = step.init(loaded.variables, jax.random.key(0))
    saved.save(state)
    saved.save(state._replace(step=state.step + 40, params=jax.tree.map(lambda a: a + 1, state.params)))
    saved.wait()
    return folder / "checkpoints", loaded


def test_the_newest_is_read_and_a_step_by_its_folder(run):
    folder, before = run
    found = load(folder, arch=made.RESNET)
    assert found.naming == "jtl"
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), found.variables.params, before.variables.params)
    jax.tree.map(np.testing.assert_array_equal, found.variables.stats, before.variables.stats)
    first = load(folder / "step_00000000", arch=made.RESNET)
    jax.tree.map(np.testing.assert_array_equal, first.variables, before.variables)


def test_damage_is_named(run, tmp_path):
    folder, _ = run
    path = tmp_path / "step_00000001"
    (path / "arrays").mkdir(parents=True)
    about = json.loads((folder / "step_00000000" / "manifest.json").read_text())
    for text, said in [
        ("{", "the JSON cannot be read"),
        ("[]", "is no manifest of a checkpoint"),
        (json.dumps({"leaves": {"params/a": [[1], "float99"]}}), "'params/a' has the type 'float99'"),
        (json.dumps({"leaves": {"params/a": [[-1], "float32"]}}), "'params/a' has a size of -1"),
        (json.dumps({"leaves": {"params/a": 3}}), "must be described by its shape"),
        (json.dumps(about | {"step": 7}), "was changed after it was written"),
        (json.dumps(about), r"step_00000001/arrays/\S+ is missing"),
    ]:
        (path / "manifest.json").write_text(text)
        with pytest.raises(WeightFileError, match=said):
            read(tmp_path)["head/out/bias"]
    manifest.write(path, {"leaves": about["leaves"]})
    with pytest.raises(WeightFileError, match=r"Orbax [\d.]+ does not read the arrays"):
        read(tmp_path)["head/out/bias"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"files": {"../step_00000001/manifest.json": [1, 1]}}, r"lies outside of the folder"),
        ({"files": {"/arrays": [1, 1]}}, r"lies outside of the folder"),
        ({"files": {"a\0": [1, 1]}}, r"must give the size and the checksum of each file"),
        ({"files": {"a": [1]}}, r"must give the size and the checksum of each file"),
        ({"files": {}, "frozen": "../other"}, r"frozen parameters '../other'; no folder is so named"),
        (
            {"files": {}, "frozen": "frozen_" + 32 * "0"},
            r"needs the frozen parameters of .*frozen_0+, which is missing",
        ),
    ],
)
def test_a_manifest_reads_no_other_folder(tmp_path, more, said):
    path = tmp_path / "step_00000001"
    (path / "arrays").mkdir(parents=True)
    body = {"leaves": {"params/a": [[1], "float32"]}} | more
    (path / "manifest.json").write_text(json.dumps({"crc32": manifest.seal(body), **body}))
    with pytest.raises(WeightFileError, match=said):
        read(tmp_path)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_one_flipped_bit_is_seen_and_the_step_before_is_read(run, tmp_path, caplog):
    """In each file of arrays in turn; Orbax alone reads wrong numbers from most of them."""
    folder, before = run
    copy = shutil.copytree(folder, tmp_path / "run")
    newest, older = copy / "step_00000040", copy / "step_00000000"
    files = [path for path in sorted((newest / "arrays").rglob("*")) if path.is_file() and path.stat().st_size]
    assert any(path.parent.name == "d" for path in files)
    for path in files:
        flip(path)
        with pytest.raises(WeightFileError, match=rf"step_00000040 is damaged: .*{path.name} has changed"):
            read(newest)
        with caplog.at_level(logging.WARNING, "jtl.checkpoint"):
            found = read(copy)
        assert "step_00000040 is damaged and not used" in caplog.records[-1].getMessage()
        np.testing.assert_array_equal(found["head/out/bias"], before.variables.params["head"]["out"]["bias"])
        flip(path)
    np.testing.assert_array_equal(read(copy)["head/out/bias"], before.variables.params["head"]["out"]["bias"] + 1)
    for step in (newest, older):
        flip(next(path for path in (step / "arrays" / "params" / "d").iterdir()))
    with pytest.raises(WeightFileError, match="step_00000000 is damaged"):
        load(copy, arch=made.RESNET)


def test_what_orbax_does_not_read_is_told_and_the_step_before_is_read(run, tmp_path, caplog):
    folder, before = run
    copy = shutil.copytree(folder, tmp_path / "run")
    newest = copy / "step_00000040"
    # Without this file Orbax begins with no array; where it fails amid several, the others' futures outlive its loop.
    (newest / "arrays" / "params" / "_METADATA").unlink()
    body = {name: part for name, part in manifest.read(newest).items() if name != "files"}
    manifest.write(newest, body)  # the checksums are those of what is there
    with pytest.raises(WeightFileError, match=r"step_00000040: its files are those .* does not read .*'versions'"):
        read(newest)
    with caplog.at_level(logging.WARNING, "jtl.checkpoint"):
        found = read(copy)["head/out/bias"]
    assert "step_00000040 is damaged and not used" in caplog.text
    np.testing.assert_array_equal(found, before.variables.params["head"]["out"]["bias"])


def test_moving_averages_are_read_where_the_run_keeps_them(run, tmp_path, caplog):
    loaded = run[1]
    step = make_step(lambda *a: None, optax.adam(0.1), trainable=select("head/.*"), ema=0.5)  # pyright: ignore
    state = step.init(loaded.variables, jax.random.key(0))
    state = state._replace(ema=jax.tree.map(lambda a: a + 2, state.ema))
    with Checkpoints(tmp_path) as saver:
        saver.save(state, trains=step.trains(state.params))
    with caplog.at_level(logging.INFO, "jtl.checkpoint"):
        found = load(tmp_path, arch=made.RESNET).variables
    assert "the moving averages of 2 parameters are read" in caplog.text
    for top, more in (("backbone", 0), ("head", 2)):
        jax.tree.map(
            lambda a, b, more=more: np.testing.assert_array_equal(a, b + np.float32(more)),
            found.params[top],
            loaded.variables.params[top],
        )
    jax.tree.map(np.testing.assert_array_equal, found.stats, loaded.variables.stats)


@pytest.fixture(scope="module")
def frozen(run, tmp_path_factory):
    """Two checkpoints of a run that trains the head alone."""
    _, loaded = run
    saver = Checkpoints(tmp_path_factory.mktemp("frozen") / "run")
    step = make_step(lambda *a: None, optax.adam(0.1), trainable=select("head/.*"))  # pyright: ignore
    state = step.init(loaded.variables, jax.random.key(0))
    moved = state.params | {"head": jax.tree.map(lambda a: a + 1, state.params["head"])}
    for now in (state, state._replace(step=state.step + 40, params=moved)):
        saver.save(now, trains=step.trains(now.params))
    saver.wait()
    return saver.directory, loaded


def test_what_was_written_once_is_read_with_each_step(frozen):
    folder, before = frozen
    found = load(folder, arch=made.RESNET)
    assert found.naming == "jtl"
    jax.tree.map(np.testing.assert_array_equal, found.variables.params["backbone"], before.variables.params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, found.variables.stats, before.variables.stats)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b + 1),
        found.variables.params["head"],
        before.variables.params["head"],
    )
    first = load(folder / "step_00000000", arch=made.RESNET)
    jax.tree.map(np.testing.assert_array_equal, first.variables, before.variables)


def test_damage_of_what_was_written_once_is_named(frozen, tmp_path):
    folder, _ = frozen
    copy = shutil.copytree(folder, tmp_path / "run")
    (apart,) = copy.glob("frozen_*")
    flip(next(path for path in (apart / "arrays" / "params" / "d").iterdir()))
    for path in (copy, copy / "step_00000040"):
        with pytest.raises(WeightFileError, match=rf"{apart.name} is damaged: .* has changed"):
            read(path)
    alone = shutil.copytree(folder / "step_00000040", tmp_path / "step_00000040")
    with pytest.raises(WeightFileError, match=rf"needs the frozen parameters of .*{apart.name}, which is missing"):
        read(alone)
