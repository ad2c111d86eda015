"""What the tests of alignments share: the golden inputs, masked domains, exact gradients."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text())


def feats(rows, width, phase=0.0):
    """The inputs of the golden values, free of random numbers."""
    i, j = np.arange(rows)[:, None], np.arange(width)[None]
    return np.sin(1.3 * i + 0.7 * j + phase) + 0.5 * np.cos(0.37 * i * j + 0.1 * j + phase)


SOURCE, TARGET = feats(16, 5), 1.3 * feats(20, 5, 1.1) + 0.2
LOGITS = feats(30, 4, 0.5) + np.eye(4)[np.arange(30) % 3]


def domains(seed=0, rows=(7, 9), width=4):
    """Two domains with masks, NaN in the rows that do not count."""
    draw = np.random.default_rng(seed)
    f = [draw.normal(size=(n, width)) + i for i, n in enumerate(rows)]
    masks = [np.arange(n) % 4 != 2 for n in rows]
    return *(np.where(m[:, None], a, np.nan) for a, m in zip(f, masks, strict=True)), *masks


def same_value_and_gradient(ours, theirs, *arrays, tolerance=1e-7, of=None):
    """Value of `theirs`, in numpy, and its finite differences along two random directions of each array; in float64.

    Args:
      ours: of the arrays.
      theirs: the reference on the arrays.
      arrays: rows that do not count hold NaN; they are not moved.
      tolerance: of both.
      of: what to differentiate instead of `theirs`, where constants of the gradient are held at the point.
    """
    with jax.enable_x64(True):
        given = [jnp.asarray(a) for a in arrays]
        value, found = jax.jit(jax.value_and_grad(ours, tuple(range(len(given)))))(*given)
        value, found = float(value), [np.asarray(g) for g in found]
    np.testing.assert_allclose(value, theirs(*arrays), rtol=tolerance, atol=tolerance)
    draw = np.random.default_rng(9)
    for i, a in enumerate(arrays):
        assert np.isfinite(found[i]).all()
        assert (found[i][np.isnan(a)] == 0).all()
        for _ in range(2):
            direction = draw.normal(size=a.shape)
            moved = [[b + s * 1e-5 * direction if j == i else b for j, b in enumerate(arrays)] for s in (1, -1)]
            slope = ((of or theirs)(*moved[0]) - (of or theirs)(*moved[1])) / 2e-5
            along = (found[i] * np.where(np.isnan(a), 0, direction)).sum()
            np.testing.assert_allclose(along, slope, rtol=1e-5, atol=tolerance)
