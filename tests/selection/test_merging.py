"""Merges against PEFT's, against the papers' formulas number by number, and what holds for any networks."""

import importlib.util
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.model import Variables
from jtl.selection import dare, interpolate, task_arithmetic, ties

KEY = jax.random.key(0)
WEIGHTS = [0.7, -0.4, 1.3]
SHAPES = {"kernel": (6, 7), "bias": (9,)}


def trees(count=4, seed=0):
    """A base, and networks near it."""
    draw = np.random.default_rng(seed)
    return [{"part": {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}} for _ in range(count)]


BASE, *TUNED = trees()


def taus(name):
    return [np.float64(one["part"][name]) - BASE["part"][name] for one in TUNED]


def merged(found, name):
    return np.asarray(found["part"][name], np.float64) - BASE["part"][name]


@pytest.fixture(scope="module")
def peft():
    """PEFT's functions, on NumPy arrays; from their file alone, because PEFT takes seconds to import."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    found = importlib.util.find_spec("peft")
    if found is None or not found.submodule_search_locations:
        pytest.skip("PEFT is the reference; it is installed for Python 3.11 only")
    functions = runpy.run_path(str(Path(found.submodule_search_locations[0]) / "utils" / "merge_utils.py"))

    def call(name, vectors, **options):
        given = [torch.tensor(np.float32(v)) for v in vectors]
        return functions[name](given, torch.tensor(WEIGHTS), **options).numpy()

    return call


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_task_arithmetic_is_pefts(peft):
    found = task_arithmetic(BASE, TUNED, WEIGHTS)
    for name in SHAPES:
        close(merged(found, name), peft("task_arithmetic", taus(name)))


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.99])
def test_ties_is_pefts(peft, density):
    found = ties(BASE, TUNED, WEIGHTS, density=density, trim="array")
    for name in SHAPES:
        close(merged(found, name), peft("ties", taus(name), density=density))
    found = ties(BASE, TUNED, WEIGHTS, density=density)  # PEFT's on all numbers as one array
    every = [np.concatenate([a.ravel() for a in both]) for both in zip(*map(taus, SHAPES), strict=True)]
    joined = np.concatenate([merged(found, name).ravel() for name in SHAPES])
    close(joined, peft("ties", every, density=density))


def test_ties_is_the_papers_algorithm_number_by_number():
    found = ties(BASE, TUNED, 0.5, density=0.4)
    trimmed = []
    for vector in zip(*map(taus, SHAPES), strict=True):
        flat = np.concatenate([a.ravel() for a in vector])
        keep = np.argsort(-np.abs(flat))[: int(0.4 * flat.size)]
        trimmed.append([v if i in set(keep.tolist()) else 0.0 for i, v in enumerate(flat)])
    expected = []
    for numbers in zip(*trimmed, strict=True):
        sign = np.sign(sum(numbers))
        agree = [n for n in numbers if n and np.sign(n) == sign]
        expected.append(0.5 * sum(agree) / len(agree) if agree else 0.0)
    assert 0 < np.count_nonzero(expected) < len(expected)
    close(np.concatenate([merged(found, name).ravel() for name in SHAPES]), expected)


def masks(drop, shape, path):
    """What `dare` keeps of three networks, read from its sum for differences of 1, 2 and 4."""
    base = {"part": {path: np.zeros(shape, np.float32)}}
    tuned = [{"part": {path: np.full(shape, 2.0**t, np.float32)}} for t in range(3)]
    total = np.asarray(dare(base, tuned, 1 - drop, drop=drop, key=KEY)["part"][path]).round().astype(int)
    return [(total >> t & 1).astype(np.float32) for t in range(3)]


@pytest.mark.filterwarnings("ignore:The density 1")
@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_dare_is_pefts_on_the_same_draws(peft, monkeypatch, drop, elect):
    torch = pytest.importorskip("torch")
    found = dare(BASE, TUNED, WEIGHTS, drop=drop, key=KEY, elect_signs=elect)
    for name, shape in SHAPES.items():
        drawn = [torch.tensor(m) for m in masks(drop, shape, name)]
        monkeypatch.setattr(torch, "bernoulli", lambda share, drawn=drawn: drawn.pop(0))
        expected = peft("dare_ties" if elect else "dare_linear", taus(name), density=1 - drop)
        close(merged(found, name), expected)


def test_dare_drops_its_share_of_each_network_independently():
    kept = np.array([m.ravel() for m in masks(0.8, (200, 100), "kernel")])
    np.testing.assert_allclose(kept.mean(1), 0.2, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(kept), np.eye(3), atol=0.04)
    other = dare(BASE, TUNED, 1.0, drop=0.8, key=jax.random.key(1))
    assert not np.allclose(merged(other, "kernel"), merged(dare(BASE, TUNED, 1.0, drop=0.8, key=KEY), "kernel"))


@pytest.mark.parametrize("merge", [task_arithmetic, ties], ids=["sum", "ties"])
def test_the_order_of_networks_does_not_matter_and_one_alone_comes_back(merge):
    for a, b in zip(*(jax.tree.leaves(merge(BASE, t, 0.3)) for t in (TUNED, TUNED[::-1])), strict=True):
        close(a, b)
    whole = {} if merge is task_arithmetic else {"density": 1.0}
    jax.tree.map(close, merge(BASE, TUNED[:1], 1.0, **whole), TUNED[0])
    jax.tree.map(close, merge(BASE, TUNED[:1], 0.3, **whole), interpolate(BASE, TUNED[0], 0.3))


def test_opposite_numbers_elect_no_sign_and_equal_magnitudes_are_kept_together():
    base, tuned = {"w": np.zeros(3)}, [{"w": np.array([1.0, 2.0, 2.0])}, {"w": np.array([-1.0, 2.0, -2.0])}]
    assert ties(base, tuned, density=1.0)["w"].tolist() == [0, 2, 0]
    assert ties(base, tuned[:1], density=0.34)["w"].tolist() == [0, 2, 2]
    assert ties(base, tuned[:1], density=0.2)["w"].tolist() == [0, 0, 0]  # a fifth of three numbers is none


MERGES = {
    "sum": lambda base, tuned, w=0.5: task_arithmetic(base, tuned, w),
    "ties": lambda base, tuned, w=0.5: ties(base, tuned, w, density=1.0),
    "dare": lambda base, tuned, w=0.5: dare(base, tuned, w, drop=0.0, key=KEY),
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_statistics_and_integers_are_the_bases_and_sums_are_in_single_precision(merge):
    def variables(w, mean, more):
        params = {"w": jnp.full(2, w, jnp.bfloat16), "ids": np.arange(3), "on": np.array([True])}
        return Variables(params, {"mean": np.float32(mean), **more})

    found = merge(variables(1.0, 5, {}), [variables(1.0078125, 7, {"queue": np.ones(2)})])
    assert found.stats == {"mean": 5}
    assert found.params["w"].dtype == jnp.bfloat16
    assert found.params["ids"].tolist() == [0, 1, 2]
    close(merge({"w": jnp.full(2, 1.0, jnp.bfloat16)}, [{"w": jnp.full(2, 3.0, jnp.bfloat16)}], 0.3)["w"], 1.6015625)
    with pytest.raises(ValueError, match=r"tree 1 has \['ids'\] of int.*other values than tree 0"):
        merge({"ids": np.arange(3)}, [{"ids": np.arange(3) + 1}])


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_bad_input_raises(merge):
    with pytest.raises(ValueError, match="tuned is empty"):
        merge(BASE, [])
    with pytest.raises(ValueError, match=r"tree 2 has \['v'\] of shape None, tree 0 of \(\)"):
        merge({"v": 0.0}, [{"v": 0.0}, {"w": 1.0}])
    with pytest.raises(ValueError, match="2 weights for 3 networks"):
        merge(BASE, TUNED, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"weights\[1\]=nan"):
        merge(BASE, TUNED, [1.0, float("nan"), 2.0])


def test_shares_out_of_range_raise():
    for density in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"density={density}"):
            ties(BASE, TUNED, density=density)
    for drop in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"drop={drop}"):
            dare(BASE, TUNED, 1.0, drop=drop, key=KEY)
    with pytest.raises((ValueError, TypeError), match="leaf"):  # a checked annotation raises first
        ties(BASE, TUNED, trim="leaf")  # pyright: ignore[reportArgumentType]
