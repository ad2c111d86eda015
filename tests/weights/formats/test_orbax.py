"""A run's checkpoints as a source of weights."""

import json

import jax
import made
import numpy as np
import optax
import pytest

from jtl.pretrained.load import load
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
        (json.dumps(about), "Orbax does not read its arrays"),
    ]:
        (path / "manifest.json").write_text(text)
        with pytest.raises(WeightFileError, match=said):
            read(tmp_path)["head/out/bias"]
