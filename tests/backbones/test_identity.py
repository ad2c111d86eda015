import jax
import numpy as np
import optax
import pytest

from jtl import heads
from jtl.backbones import identity
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.train.step import make_step


def test_a_head_alone_is_linear_regression(key):
    """One step of gradient descent from a zero head on given features is the closed form of softmax regression."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)).astype(np.float32), np.arange(6, dtype=np.int32) % 3
    net = network(backbone=identity(), head=heads.linear(3, zero_init=True))
    variables = net.init(key, x)
    assert variables.params["backbone"] == {}
    step = make_step(finetune(net), optax.sgd(1.0))
    state, _ = step(step.init(variables, key), {"x": x, "y": y})
    expected = x.T @ (np.eye(3)[y] - 1 / 3) / 6
    np.testing.assert_allclose(state.params["head"]["out"]["kernel"], expected, rtol=1e-5, atol=1e-7)


def test_parts_without_parameters_leave_the_tree_and_missing_ones_are_named(key):
    """The state keeps its structure, so one compiled step serves all; a head that needs parameters is missed."""
    x, y = np.ones((2, 4), np.float32), np.zeros(2, np.int32)
    net = network(backbone=identity(), head=heads.linear(3))
    variables = net.init(key, x)
    step = make_step(finetune(net), optax.sgd(1.0))
    state = step.init(variables, key)
    after, _ = step(state, {"x": x, "y": y})
    assert jax.tree.structure(after.params) == jax.tree.structure(state.params)
    with pytest.raises(ValueError, match="no parameters under 'head'"):
        finetune(net)({}, {}, {"x": x, "y": y}, key, 0)
