import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl import losses
from jtl.data import augment
from jtl.methods.augmented import augmented
from jtl.methods.finetune.finetune import finetune, judged
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


def test_maps_weights_and_boxes_move_with_the_images_of_each_part(key):
    """The label of each pixel is its number, so that image and map must stay the same, and weights 0 outside."""
    codes = np.random.default_rng(0).integers(1, 200, (4, 8, 8)).astype(np.int32)
    moved = augment.compose(augment.flip(), augment.crop(8, padding=3))
    rows = {"x": codes[..., None], "y": codes, "weights": np.ones((4, 8, 8), np.float32), "mask": np.ones(4, bool)}
    found = augmented(seen, moved, ignore=255)({}, {}, {"source": rows, "target": rows}, key, 0)[1].stats
    for part in found.values():
        x = np.asarray(part["x"][..., 0])
        assert (x == 0).any()
        np.testing.assert_array_equal(part["y"], np.where(x == 0, 255, x))
        np.testing.assert_array_equal(part["weights"], x != 0)
        np.testing.assert_array_equal(part["mask"], rows["mask"])
    assert (found["source"]["x"] != found["target"]["x"]).any()


def test_the_loss_of_a_moved_map_is_that_of_the_pixels_that_stayed(key):
    """Cross-entropy of logits that are the image itself, by hand, without the pixels from outside."""
    classes = np.random.default_rng(0).integers(0, 3, (4, 8, 8)).astype(np.int32)
    image = np.eye(3, dtype=np.float32)[classes] * 2

    def objective(params, stats, batch, key, step):
        return judged(batch["x"], batch, losses.cross_entropy, {}, 255)[0], Aux(stats, {})

    batch = {"x": image, "y": classes}
    loss = augmented(objective, augment.crop(8, padding=3), ignore=255)({}, {}, batch, key, 0)[0]
    expected = np.log(np.exp(2) + 2) - 2  # of every pixel whose label is still its own
    np.testing.assert_allclose(loss.value, expected, rtol=1e-5)
    assert 0 < float(loss.count) < classes.size


def test_trees_of_labels_are_no_parts_of_a_batch(key):
    boxes = np.tile(np.asarray([1, 2, 4, 3], np.float32), (2, 1, 1))
    batch = {"x": np.zeros((2, 6, 8, 1)), "y": {"boxes": boxes, "classes": np.ones((2, 1), np.int32)}}
    found = augmented(seen, augment.flip(1.0))({}, {}, batch, key, 0)[1].stats
    np.testing.assert_array_equal(found["y"]["boxes"], np.tile(np.asarray([4, 2, 7, 3], np.float32), (2, 1, 1)))


def test_labels_that_cannot_move_are_refused_and_photometric_augmentations_take_all(key):
    x, y = np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 4, 4), np.int32)
    with pytest.raises(ValueError, match=r"shift does not say where pixels go"):
        augmented(seen, shift)({}, {}, {"x": x, "y": np.zeros((2, 8, 8), np.int32)}, key, 0)
    with pytest.raises(ValueError, match=r"labels 'y' of shape \(2, 4, 4\) cannot move with images of shape"):
        augmented(seen, augment.flip())({}, {}, {"x": x, "y": y}, key, 0)
    found = augmented(seen, augment.noise(1.0))({}, {}, {"x": x, "y": y}, key, 0)[1].stats
    np.testing.assert_array_equal(found["y"], y)


def test_preprocessing_is_part_of_the_model(key):
    from jtl import backbones

    net = backbones.conv4(4)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    normalise = augment.normalise((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    inside = preprocessed(net, normalise)
    made = jax.jit(inside.init)(key, images)
    by_hand = (images / np.float32(255) - np.array([0.5, 0.4, 0.3], np.float32)) / np.array([0.2, 0.2, 0.1], np.float32)
    run, expected = (jax.jit(lambda v, x, n=n: n.apply(v, x, train=False)[0]["pooled"]) for n in (inside, net))
    np.testing.assert_allclose(run(made, images), expected(made, by_hand), rtol=1e-4, atol=1e-6)
