"""The cache of features: what makes a batch the same, kills, and damage."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones, model
from jtl.methods.finetune import Cache, extract
from jtl.model import Variables
from jtl.params import flatten, unflatten
from jtl.reads import reads, whole

BODY = backbones.mlp((8, 4))
X = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    return BODY.init(jax.random.key(0), X[0])


def files(folder):
    return sorted(folder.rglob("*.features"))


def counted(monkeypatch):
    """How many batches were computed, as one number in a list."""
    told, write = [], Cache._write

    def spy(path, key, made):
        told.append(path)
        write(path, key, made)

    monkeypatch.setattr(Cache, "_write", staticmethod(spy))
    return told


def batches(x: Any = X):
    return [{"x": part, "y": np.arange(4)} for part in x]


def test_a_second_call_reads_the_bits_of_the_first_and_computes_nothing(variables, tmp_path, monkeypatch):
    plain, y = extract(BODY, variables, batches())
    computed = counted(monkeypatch)
    for _ in range(2):
        found, labels = extract(BODY, variables, batches(), cache=tmp_path / "c")
        np.testing.assert_array_equal(found, plain)
        np.testing.assert_array_equal(labels, y)
    assert len(computed) == len(files(tmp_path)) == 3
    masked = [{**batch, "mask": np.arange(4) < 2} for batch in batches()]  # a mask chooses rows of what is cached
    np.testing.assert_array_equal(
        extract(BODY, variables, masked, cache=tmp_path / "c")[0], plain.reshape(3, 4, 4)[:, :2].reshape(6, 4)
    )
    assert len(computed) == 3


def test_every_change_of_weights_program_or_data_is_computed_again(variables, tmp_path, monkeypatch):
    computed = counted(monkeypatch)

    def check(body, own, data, read, new):
        del computed[:]
        found, _ = extract(body, own, data, read, cache=tmp_path)
        jax.tree.map(np.testing.assert_array_equal, found, extract(body, own, data, read)[0])
        assert len(computed) == new

    check(BODY, variables, batches(), None, 3)
    flat = flatten(variables.params)
    for path in flat:  # one bit of one number of each array
        bits = np.array(flat[path]).reshape(-1).view(np.uint32)
        bits[-1] ^= 1
        changed = {**flat, path: bits.view(np.float32).reshape(flat[path].shape)}
        check(BODY, Variables(unflatten(changed), variables.stats), batches(), None, 3)
    for scale in (1.0, 2.0):  # preprocessing inside the model: the same names, shapes and weights
        check(model.preprocessed(BODY, lambda key, x, s=scale: x * s + s), variables, batches(), None, 3)
    for mean in (0.4, 0.5):
        pixels = model.preprocessed(BODY, lambda key, x, mean=mean: (x / 255.0 - mean) / 0.2)
        check(pixels, variables, batches((X * 9).astype(np.uint8)), None, 3)
    check(BODY, variables, batches(), reads(("stage1", "pooled")), 3)
    check(BODY, variables, batches(), whole("stage1", "pooled"), 3)
    check(BODY, variables, batches(), whole("pooled", "stage1"), 0)  # the same arrays by the same names
    other = X.copy()
    other[1, 2, 3] += 1e-6
    check(BODY, variables, batches(other), None, 1)
    check(BODY, variables, batches(X[:, ::-1]), None, 3)  # rows in another order, as of renamed files
    check(BODY, variables, batches(np.concatenate([X, X[:1, ::-1] + 1])), None, 1)  # examples more
    check(BODY, variables, batches(X.astype(np.float16)), None, 3)


def test_a_constant_that_the_program_closes_over_is_part_of_the_key(tmp_path):
    x, nothing = np.ones(2, np.float32), Variables({}, {})
    for value in (1.0, 2.0):
        for table in (np.full(3000, value, np.float32), jnp.full(3000, value)):
            run = Cache(tmp_path, lambda v, x, table=table: x + table.max() + (table * x[0])[-1], nothing)
            np.testing.assert_array_equal(run(x), x + 2 * value)


def test_leaves_of_every_kind_come_back(tmp_path):
    def run(variables, x):
        return {"half": x.astype(jnp.bfloat16), "whole": (x > 0, x.sum(), x[:0], x.astype(jnp.int8))}

    made = Cache(tmp_path, run, Variables({}, {}))(X[0])
    again = Cache(tmp_path, run, Variables({}, {}))
    assert all(leaf.flags.writeable for leaf in jax.tree.leaves(again(X[0])))
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(again(X[0])), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    assert (again.hits, again.misses) == (2, 0)


def test_damage_is_told_and_put_right(variables, tmp_path):
    plain, _ = extract(BODY, variables, batches(), cache=tmp_path)
    whole_files = [path.read_bytes() for path in files(tmp_path)]

    def flipped(content, place):
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    first = whole_files[0]
    for bad in (b"", first[:-1], first + b"\0", flipped(first, 0), flipped(first, -2 % len(first)), whole_files[1]):
        files(tmp_path)[0].write_bytes(bad)
        with pytest.warns(RuntimeWarning, match="are damaged: they are computed again"):
            found, _ = extract(BODY, variables, batches(), cache=tmp_path)
        np.testing.assert_array_equal(found, plain)
        assert [path.read_bytes() for path in files(tmp_path)] == whole_files


KILLED = """
import os, sys
import jax, numpy as np
from jtl.methods.finetune import extract
from tests.methods.finetune.test_cache import BODY, X, batches
write, left = os.replace, [2]
def replace(a, b):
    if not left[0]:
        os._exit(9)  # behind the bytes, before the name
    left[0] -= 1
    write(a, b)
os.replace = replace
extract(BODY, BODY.init(jax.random.key(0), X[0]), batches(), cache=sys.argv[1])
"""


def test_a_killed_run_resumes_behind_its_last_batch(variables, tmp_path, monkeypatch):
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests' / 'support'}"}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=env, cwd=root, check=False)
    assert ended.returncode == 9
    assert len(files(tmp_path)) == 2
    assert len(list(tmp_path.rglob("*.new"))) == 1
    computed = counted(monkeypatch)
    found, _ = extract(BODY, variables, batches(), cache=tmp_path)  # another process finds what the killed one named
    assert len(computed) == 1
    np.testing.assert_array_equal(found, extract(BODY, variables, batches())[0])


def test_weights_go_to_the_device_once(variables, tmp_path):
    numbers = jax.tree.map(np.asarray, variables)
    first, again = (Cache(tmp_path, lambda v, x: BODY.apply(v, x, train=False)[0]["pooled"], numbers) for _ in range(2))
    first(X[0])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first._variables))
    again(X[0])  # a hit needs no weights there
    assert again.hits == 1
    assert again._variables is numbers


def test_a_file_in_place_of_the_folder_is_refused(variables, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        extract(BODY, variables, batches(), cache=tmp_path / "taken")
