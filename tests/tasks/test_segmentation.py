"""Segmentation against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tasks
from jtl.methods.finetune.finetune import judged
from jtl.metrics.accumulate import total


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (3, 4)])
def test_loss_and_gradient_are_torchs(size):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    maps = draw.normal(size=(2, 3, 4, 5)).astype(np.float32)
    y = draw.integers(0, 5, (2, *size))
    y[draw.random(y.shape) < 0.3] = 255
    task = tasks.segmentation(5)

    def loss(maps):
        return total(judged(maps, {"y": y}, task.loss, task.metrics, task.ignore)[0])

    value, grad = jax.value_and_grad(loss)(jnp.asarray(maps))
    z = torch.tensor(maps.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    large = torch.nn.functional.interpolate(z, size=size, mode="bilinear", align_corners=False)
    theirs = torch.nn.functional.cross_entropy(large, torch.tensor(y), ignore_index=255)
    theirs.backward()
    np.testing.assert_allclose(value, theirs.detach(), rtol=1e-5)
    assert z.grad is not None
    np.testing.assert_allclose(grad, z.grad.permute(0, 2, 3, 1), atol=1e-6)
    np.testing.assert_array_equal(task.decode(maps, size), large.argmax(1))


def test_intersection_over_union_by_hand():
    task = tasks.segmentation(3)
    predicted = np.array([[[0, 1], [1, 1]]])
    y = np.array([[[0, 0], [1, 255]]])
    # Class 0: 1 of 2; class 1: 1 of 2; class 2 is nowhere, and the last pixel does not count.
    _, found = judged(jnp.eye(3)[predicted], {"y": y}, task.loss, task.metrics, task.ignore)
    assert float(found["iou"].value) == 0.5
    np.testing.assert_allclose(found["accuracy"].value, 2 / 3, rtol=1e-6)


def test_a_class_of_the_number_255_is_refused():
    with pytest.raises(ValueError, match="classes=256: at most 255"):
        tasks.segmentation(256)
