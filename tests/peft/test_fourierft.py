"""FourierFT on a small ViT: against the sum of waves in NumPy, and its places against torch's."""

from inspect import unwrap

import jax
import numpy as np
import pytest
from small_vit import adapter_of, base, randomised, runs

from jtl import peft
from jtl.params import flatten
from jtl.peft.fourierft import _places

WHERE = (r"block\d/attention/query", "block2/mlp/(up|down)")
PATHS = ("block1/attention/query", "block2/mlp/up", "block2/mlp/down")


def test_starts_as_the_base_and_merges_to_the_sum_of_waves():
    """Re F⁻¹ by its definition, one wave for each frequency, in float64, at modules of three shapes."""
    net, variables = base()
    adapter = peft.fourierft(12, WHERE, scale=30.0, seed=5, counts={".*/up": 7})
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    here, there, changed = runs(adapted), runs(net), randomised(more)
    start, found, merged = there(variables), here(changed), peft.merge(changed, adapter)
    np.testing.assert_allclose(here(more), start, rtol=0, atol=1e-5)
    np.testing.assert_allclose(there(merged), found, rtol=0, atol=1e-4)
    assert np.abs(found - start).max() > 1e-2
    for path in PATHS:
        kernel = np.asarray(flatten(variables.params)[f"backbone/{path}/kernel"], np.float64)
        (inputs, outputs), c = kernel.shape, adapter_of(changed, path)["c"]
        assert len(c) == (7 if path.endswith("up") else 12)
        j, k = np.meshgrid(np.arange(inputs) / inputs, np.arange(outputs) / outputs, indexing="ij")
        at = _places(inputs, outputs, len(c), 5)
        waves = [a * np.cos(2 * np.pi * (r * j + s * k)) for a, r, s in zip(c, *at, strict=True)]
        after = flatten(merged.params)[f"backbone/{path}/kernel"]
        np.testing.assert_allclose(after, kernel + 30 * np.sum(waves, 0) / kernel.size, rtol=1e-5, atol=1e-5)


def test_the_places_are_distinct_and_those_of_torch():
    """All places of two shapes, which torch draws as the first of a permutation; the first of them are recorded."""
    for inputs, outputs, seed in ((3, 4, 0), (8, 5, 777)):
        rows, columns = _places(inputs, outputs, inputs * outputs, seed)
        assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == inputs * outputs
        first = [part[:6].tolist() for part in _places(inputs, outputs, 6, seed)]
        assert first == [rows[:6].tolist(), columns[:6].tolist()]
    assert first == [[7, 1, 7, 3, 3, 6], [1, 1, 4, 3, 0, 2]]
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    wanted = torch.randperm(40, generator=torch.Generator().manual_seed(777)).numpy()
    np.testing.assert_array_equal(columns * 8 + rows, wanted)


def test_the_papers_start_is_normal():
    net, variables = base()
    _, more = peft.attach(net, variables, peft.fourierft(200, (".*/query",), start="normal"), jax.random.key(1))
    c = np.concatenate([adapter_of(more, f"block{i}/attention/query")["c"] for i in (1, 2)])
    np.testing.assert_allclose([c.mean(), c.std()], [0, 1], atol=0.15)


def test_what_would_be_wrong_raises():
    net, variables = base()
    with pytest.raises(ValueError, match=r"\(16, 16\); FourierFT takes \[in, out\] of at least 257 numbers"):
        peft.attach(net, variables, peft.fourierft(257, (".*/query",)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"'embed' is \(4, 4, 3, 16\)"):
        peft.attach(net, variables, peft.fourierft(2, ("embed",)), jax.random.key(0))
    with pytest.raises(ValueError, match="start='pissa'"):
        unwrap(peft.fourierft)(2, WHERE, start="pissa")
    with pytest.raises(ValueError, match="seed=4294967296"):
        peft.fourierft(2, WHERE, seed=2**32)
