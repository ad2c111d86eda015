"""What the tests of loading share."""

import ast
import re

import jax
import jax.numpy as jnp
import numpy as np

from jtl.backbones.registry import FAMILIES
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.weights import export


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
    return export(tree_of(loaded), FAMILIES[loaded.config.model_type].tables(loaded.config)[naming])


def same_bits(ours, theirs):
    """The same names, shapes, number types and bits."""
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        found, value = np.asarray(ours[name]), np.asarray(value)
        assert (found.shape, found.dtype) == (value.shape, value.dtype), name
        assert found.tobytes() == value.tobytes(), name


def same_outputs(features, logits, theirs, wanted, tolerance):
    """Every feature by name, and the logits; `theirs` and `wanted` are torch's."""
    assert sorted(features) == sorted(wanted)
    for name, value in wanted.items():
        close(features[name], value.detach(), tolerance, name)
    close(logits, theirs.detach(), tolerance, "logits")


def same_gradients(grads, folder):
    """Those that a reference saved in the place of its parameters, to 1e-9 in float64."""
    with jax.enable_x64(True):
        expected = flatten(load(folder, dtype=jnp.float64).variables.params)
    for path, ours in flatten(grads).items():
        # A key's bias moves no softmax, nor a bias before a normalisation anything: gradients of 0 but for rounding.
        largest = np.abs(expected[path]).max()
        np.testing.assert_allclose(ours, expected[path], rtol=1e-9, atol=1e-10 * max(largest, 1), err_msg=path)


def follow(message):
    """The options that a message on what does not fit proposes."""
    said = re.search(r"to load the rest alone: (.*)", message)
    assert said
    call = ast.parse(f"f({said[1]})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
