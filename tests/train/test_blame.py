"""A message on a NaN says which labels the batch has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.train.blame import bright_images, labels_of


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


def of_bright_images():
    net = jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(3))
    net = jtl.preprocessed(net, jtl.data.augment.normalise((0.5,) * 3, (0.5,) * 3))
    x = np.linspace(0, 255, 8 * 12, dtype=np.float32).reshape(8, 2, 2, 3)
    return net, net.init(jax.random.key(0), x / 255), jtl.data.arrays(x, np.arange(8) % 3, batch_size=8, shuffle=False)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_evaluation_and_prediction_refuse_images_whose_range_made_them_nan(dtype):
    net, variables, data = of_bright_images()
    variables = jax.tree.map(lambda a: a.astype(dtype), variables)
    told = r"x reaches 255: float images above 4 become NaN where they are normalised; give floats in \[0, 1\]"
    with pytest.raises(ValueError, match=told):
        jtl.evaluate(jtl.evaluation(net), variables, data)
    with pytest.raises(ValueError, match=told):
        jtl.predict(net, variables, data)
    right = jtl.data.arrays(np.asarray(data[0]["x"]) / 255, batch_size=8, shuffle=False)
    assert np.isfinite(jtl.predict(net, variables, right).astype(np.float32)).all()


def test_a_nan_of_a_network_that_does_not_normalise_is_not_blamed_on_images():
    net = jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(3))
    x = np.full((8, 2, 2, 3), 9.0, np.float32)
    variables = jax.tree.map(lambda a: a * jnp.nan, net.init(jax.random.key(0), x))
    data = jtl.data.arrays(x, np.zeros(8, int), batch_size=8, shuffle=False)
    assert np.isnan(jtl.evaluate(jtl.evaluation(net), variables, data)["loss"])


def test_training_names_images_whose_range_made_the_loss_nan(key):
    net, variables, data = of_bright_images()
    step = jtl.make_step(jtl.finetune(net), optax.sgd(1e-6))
    with pytest.raises(jtl.NonFiniteLoss, match=r"the loss of step 1 is nan; x reaches 255: .*; the first bad array"):
        jtl.fit(step, step.init(variables, key), data, steps=1)


def test_images_within_the_range_and_other_arrays_are_not_blamed():
    assert bright_images({"x": np.full((1, 2, 2, 3), 3.9)}) == ""
    assert bright_images({"x": np.full((1, 2, 2, 3), 255)}) == ""  # integers
    assert bright_images({"x": np.full((5, 7), 255.0)}) == ""
    assert bright_images({"x": np.zeros((1, 4, 4, 1)), "y": np.full((1, 4, 4, 1), 80.0)}) == ""  # depths


def test_a_batch_that_is_a_tuple_is_refused(key):
    net = jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(3))
    batch = np.ones((8, 2), np.float32), np.zeros(8, int)
    step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"a batch is a tuple: give a dict, as \{'x': inputs, 'y': labels\}"):
        jtl.fit(step, step.init(net.init(key, batch[0]), key), [batch], steps=1)
