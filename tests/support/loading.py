"""What the tests of loading share."""

import numpy as np

from jtl.weights import export
from jtl.weights.families import FAMILIES


def close(ours, theirs, tolerance, names):
    """Within a relative error, or that of the largest value."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape, names
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=names)


def tree_of(loaded):
    """Parameters and statistics as one tree, as the name tables have them."""
    return {**loaded.variables.params, "stats": loaded.variables.stats}


def images(size, batch=2):
    return np.random.default_rng(0).normal(size=(batch, *size, 3)).astype(np.float32)


def channels_first(x):
    """A copy as torch has it."""
    import torch

    return torch.tensor(x.transpose(0, 3, 1, 2).copy())


def renamed(loaded, naming):
    """The tensors of a file by the names of `naming`."""
    return export(tree_of(loaded), FAMILIES[loaded.config["model_type"]].tables(loaded.config)[naming])


def same_bits(ours, theirs):
    """The same names, shapes, number types and bits."""
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        found, value = np.asarray(ours[name]), np.asarray(value)
        assert (found.shape, found.dtype) == (value.shape, value.dtype), name
        assert found.tobytes() == value.tobytes(), name
