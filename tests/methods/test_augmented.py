import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl.data import augment
from jtl.methods.augmented import augmented
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total
from jtl.model import preprocessed
from jtl.typing import Aux


def seen(params, stats, batch, key, step):
    return jnp.zeros(()), Aux(batch, {})


def shift(key, x):
    return x + jax.random.normal(key, ())


def test_each_part_draws_for_itself_and_by_the_key(key):
    rows = {name: {"x": jnp.zeros((2, 3)), "y": jnp.arange(2)} for name in ("source", "target")}
    found = [augmented(seen, shift)({}, {}, rows, k, 0)[1].stats for k in (key, key, jax.random.key(1))]
    jax.tree.map(np.testing.assert_array_equal, found[0], found[1])
    drawn = {float(f[name]["x"][0, 0]) for f in (found[0], found[2]) for name in rows}
    assert len(drawn) == 4
    np.testing.assert_array_equal(found[0]["source"]["y"], jnp.arange(2))


def test_an_augmentation_that_changes_nothing_changes_nothing(key):
    rows = batch(masked=True)
    net, _, variables = parts(key, rows["x"])
    plain, same = (
        total(objective(variables.params, {}, rows, key, 0)[0])
        for objective in (finetune(net), augmented(finetune(net), lambda key, x: x))
    )
    assert float(plain) == float(same)


def test_a_batch_without_x_is_refused(key):
    with pytest.raises(ValueError, match=r"the batch holds \['y'\], no 'x'"):
        augmented(seen, shift)({}, {}, {"y": jnp.arange(2)}, key, 0)


def test_preprocessing_is_part_of_the_model(key):
    from jtl import backbones

    net = backbones.conv4(4)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    normalise = augment.normalise((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    inside = preprocessed(net, normalise)
    made = inside.init(key, images)
    by_hand = (images / np.float32(255) - np.array([0.5, 0.4, 0.3], np.float32)) / np.array([0.2, 0.2, 0.1], np.float32)
    expected, _ = net.apply(made, by_hand, train=False)
    np.testing.assert_allclose(
        inside.apply(made, images, train=False)[0]["pooled"], expected["pooled"], rtol=1e-4, atol=1e-6
    )
