"""A message on a NaN says which labels the batch has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.train.blame import labels_of


def test_labels_from_one_are_told_with_the_number_of_classes(key):
    net = jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(3))
    x, y = np.ones((8, 2), np.float32), np.arange(8) % 3 + 1
    data, objective = jtl.data.arrays(x, y, batch_size=8), jtl.finetune(net)
    step = jtl.make_step(objective, optax.sgd(0.1))
    state = step.init(objective.init(key, data[0]), key)
    with pytest.raises(jtl.NonFiniteLoss, match=r"\(y lies in \[1, 3\], the head has 3 outputs\); no checkpoint"):
        jtl.fit(step, state, data, steps=2)


def test_labels_of_views_are_told_and_of_others_nothing():
    y = {"y": np.array([0, 7])}
    assert labels_of({"source": y, "target": {"x": np.array([9])}}, {}) == "(source/y lies in [0, 7])"
    assert labels_of({"y": np.array([0.5])}, {"head": {"bias": jnp.zeros(3)}}) == ""
    assert labels_of({"y": jax.device_put(np.array([5]))}, {}) == ""
