"""A resumed run is the run that was begun: whatever defines it is compared, and what differs is said."""

import functools
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from nets import batch, dense

import jtl
from jtl.train.checkpoint import manifest
from jtl.train.checkpoint.identity import AnotherRun, described, differences

X, Y = batch(n=24)["x"], batch(n=24)["y"]


NAMES = ("a", "b", "c")


def run(folder=None, *, rate=0.1, tx=None, width=8, smoothing=0.0, dropout=0.0, x=X, y=Y, size=8, classes=NAMES,
        seed=0, order=0, steps=2, recipe="", trainable=None, loss=None, **options):  # fmt: skip
    net = jtl.network(backbone=dense(width), head=jtl.heads.mlp(3, (4,), dropout=dropout))
    given = loss or (lambda z, y: jtl.losses.cross_entropy(z, y, smoothing=smoothing))
    objective = jtl.finetune(net, given)
    data = jtl.data.arrays(x, y, batch_size=size, classes=classes, seed=order)
    step = jtl.make_step(objective, optax.adam(rate) if tx is None else tx, trainable=trainable, **options)
    state = step.init(objective.init(jax.random.key(seed), data[0]), jax.random.key(seed))
    if folder is None:
        return described(step, data, state.key)
    saver = jtl.Checkpoints(folder, recipe=recipe)
    one = jtl.mesh(devices=jax.devices()[:1])
    return jtl.fit(step, state, data, steps=steps, mesh=one, checkpoints=saver, progress=False)


CHANGES = {
    "rate": {"rate": 0.2},
    "schedule": {"tx": optax.adam(optax.cosine_decay_schedule(0.1, 100, alpha=0.5))},
    "optimizer": {"tx": optax.adam(0.1, b1=0.8)},
    "loss": {"smoothing": 0.1},
    "other loss": {"loss": jtl.losses.focal},
    "dropout": {"dropout": 0.5},
    "data": {"x": X + np.float32(1e-3)},
    "labels": {"y": (Y + 1) % 3},
    "the last row": {"x": np.concatenate([X[:-1], X[-1:] + 1])},
    "the last label": {"y": np.concatenate([Y[:-1], (Y[-1:] + 1) % 3])},
    "fewer examples": {"x": X[:16], "y": Y[:16]},
    "batch size": {"size": 12},
    "class names": {"classes": ("a", "b", "d")},
    "order": {"order": 1},
    "seed": {"seed": 1},
    "clip": {"clip": 1.0},
    "ema": {"ema": 0.9},
    "dtype": {"dtype": jax.numpy.bfloat16},
    "microbatch": {"microbatch": 2},
    "frozen": {"frozen": "training"},
    "trainable": {"trainable": jtl.select("head/.*", "backbone/.*")},
}


@pytest.fixture(scope="module")
def first():
    return run()


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_changed_makes_another_run(first, name):
    lines = differences(first, run(**CHANGES[name]))
    assert lines
    assert len(lines) < 40  # what differs is said, and not all that follows


def test_the_same_run_is_the_same(first):
    assert differences(first, run()) == []
    assert not any(" at 0x" in text for text in first.values())


def test_a_checkpoint_that_is_older_than_the_content_of_data_is_not_another_run(first):
    older = {path: text for path, text in first.items() if path != "data/content"}
    assert len(older) == len(first) - 1
    assert differences(older, first) == []
    assert differences(first, older) == [f"data/content: {first['data/content']} -> absent"]


def test_another_process_describes_the_run_alike(first):
    """Names and addresses of one process are in no description."""
    code = (
        "import json, sys; sys.path[:0] = ['tests/support', 'tests/train/checkpoint']; import test_identity as t;"
        "print(json.dumps(t.run()))"
    )
    env = {**os.environ, "PYTHONPATH": ".", "JTL_UNCHECKED": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    here = {path: text for path, text in first.items() if "loss" not in path}  # the lambda is of another module there
    there = {path: text for path, text in json.loads(done.stdout.splitlines()[-1]).items() if "loss" not in path}
    assert differences(there, here) == []


def test_a_run_with_other_settings_is_refused_and_more_steps_are_not(tmp_path):
    run(tmp_path, recipe="jtl train one --steps 2")
    with pytest.raises(ValueError, match=r"another one.*step_size: -0.1 -> -0.2"):
        run(tmp_path, rate=0.2, steps=4)
    with pytest.raises(ValueError, match="jtl train one -> jtl train two"):
        run(tmp_path, recipe="jtl train two", steps=4)
    assert int(run(tmp_path, recipe="jtl train one --steps 4", steps=4).state.step) == 4


def written_by_another(folder, change):
    """Rewrites the newest manifest as another version of jtl would have written it."""
    path = jtl.Checkpoints(folder).path(2)
    about = manifest.read(path)
    about["versions"]["jtl sources"] = "000000000000"
    about["run"] = change(about["run"])
    del about["files"]
    manifest.write(path, about)


def renamed(texts):
    """Names of jtl's functions and of what they close over are others, as after a refactoring."""
    return {
        path.replace("/loss/", "/run/"): re.sub(r"^jtl\.[\w.]+", "jtl.elsewhere.function", text)
        for path, text in texts.items()
    }


def test_a_run_goes_on_after_an_update_of_the_library_and_says_so(tmp_path, caplog):
    """A refactoring of jtl made every older checkpoint another run."""
    run(tmp_path)
    written_by_another(tmp_path, renamed)
    assert int(run(tmp_path, steps=4).state.step) == 4
    (said,) = [record.getMessage() for record in caplog.records if record.name == "jtl.checkpoint"]
    assert "other versions of jtl" in said
    assert "jtl.elsewhere.function -> jtl." in said


@pytest.mark.parametrize("name", ["rate", "data", "labels", "order", "seed", "clip", "ema", "class names", "dropout"])
def test_an_update_of_the_library_explains_no_other_setting(first, name):
    lines = differences(renamed(first) if name in ("rate", "data") else first, run(**CHANGES[name]), updated=True)
    assert lines
    assert len(lines) < 20


def test_an_update_of_the_library_explains_no_function_or_array_of_the_user():
    """A term of the user's own could be added or left out with a warning alone."""
    plain = {"step/terms/0": "jtl.a.term", "step/terms/0/weight": "0.1"}
    for own in ("mine.term 0123456789ab", "float32[3] 0123456789ab"):
        more = plain | {"step/terms/1": own}
        assert differences(more, plain, updated=True) == [f"step/terms/1: {own} -> absent"]
        assert differences(plain, more, updated=True) == [f"step/terms/1: absent -> {own}"]
        assert differences(more, plain | {"step/added/1": own}, updated=True) == []  # a refactoring moved it


def test_the_lock_of_an_editor_among_the_sources_is_no_source(tmp_path, monkeypatch):
    """Emacs leaves a broken link beside a file that is edited, and no checkpoint could be saved."""
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "train" / "checkpoint" / "manifest.py"))
    (tmp_path / "a.py").write_text("one")
    before = manifest.versions.__wrapped__()["jtl sources"]
    (tmp_path / ".#a.py").symlink_to("somebody@host.1:2")
    assert manifest.versions.__wrapped__()["jtl sources"] == before
    (tmp_path / "a.py").write_text("two")
    assert manifest.versions.__wrapped__()["jtl sources"] != before


def test_the_same_versions_explain_nothing(tmp_path):
    run(tmp_path)
    path = jtl.Checkpoints(tmp_path).path(2)
    about = manifest.read(path)
    del about["files"]
    manifest.write(path, about | {"run": renamed(about["run"])})
    with pytest.raises(AnotherRun, match=r"jtl\.elsewhere\.function -> jtl\."):
        run(tmp_path, steps=4)


def test_a_longer_schedule_is_the_same_run():
    def of(steps):
        return run(tx=optax.adam(jtl.optim.warmup_cosine(0.1, steps)))

    assert differences(of(100), of(200)) == []
    assert differences(of(200), of(100))


def own_rate(n_steps):
    return lambda step: 0.1 * (1 - step / n_steps)


def own_text(objective, tx=None):
    data = jtl.data.arrays(X, Y, batch_size=8)
    return described(jtl.make_step(objective, tx or optax.sgd(0.1)), data, jax.random.key(0))


NET = jtl.network(backbone=dense(4), head=jtl.heads.linear(3))
FIXED = jtl.fixed_rate(0.1)
LENGTHS = {
    "optax": lambda n: run(tx=optax.sgd(optax.linear_schedule(1.0, 0.0, n))),
    "joined": lambda n: run(tx=optax.sgd(optax.join_schedules([optax.constant_schedule(0.1)] * 2, [n]))),
    "annealed": lambda n: run(tx=optax.sgd(jtl.optim.annealed(0.1, n))),
    "own rate": lambda n: run(tx=optax.adam(own_rate(n))),
    "weight": lambda n: own_text(jtl.adapt(NET, alignments=[jtl.alignments.lmmd(jtl.weight_schedule(n))])),
    "own weight": lambda n: own_text(jtl.adapt(NET, alignments=[jtl.alignments.lmmd(own_rate(n))])),
}
INNER = {
    "maml": lambda n: own_text(jtl.maml(jtl.finetune(NET), FIXED, steps=n)),
    "implicit": lambda n: own_text(
        jtl.meta(jtl.learners.implicit(jtl.finetune(NET), FIXED, steps=n, strength=1.0, solves=2), jtl.finetune(NET))
    ),
    "line search": lambda n: run(tx=optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=n))),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_length_of_a_schedule_may_grow(name):
    short, long = (LENGTHS[name](n) for n in (10, 20))
    assert short != long
    assert differences(short, long) == []
    less = differences(long, short)
    assert less
    assert all(line.endswith(", a shorter schedule") for line in less)


@pytest.mark.parametrize("name", INNER)
def test_other_steps_define_the_run(name):
    """MAML of one inner step went on as one of five in silence."""
    assert any("steps: 1 -> 5" in line for line in differences(INNER[name](1), INNER[name](5)))


def test_what_is_filled_while_a_run_goes_on_does_not_define_it():
    """A mesh keeps what was asked of it, and so does an object with a `cached_property`."""

    class Chosen:
        def __init__(self, pattern):
            self.pattern, self.mesh = pattern, jtl.mesh(devices=jax.devices()[:3])

        @functools.cached_property
        def seen(self):
            return 3

        def trains(self, params):
            return jtl.select(self.pattern)(params)

    chosen = Chosen("head/.*")
    before = run(trainable=chosen.trains)
    assert chosen.seen == 3
    assert jax.sharding.NamedSharding(chosen.mesh, jax.P()).device_set
    assert hash(chosen.mesh) is not None
    chosen.mesh.__dict__.setdefault("_kept", frozenset(chosen.mesh.devices.flat))  # as jax's own properties do
    assert differences(before, run(trainable=chosen.trains)) == []
    assert differences(before, run(trainable=Chosen(".*").trains)) == ["step/init/masks/0/self/pattern: head/.* -> .*"]
