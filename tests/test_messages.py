"""What a user's first mistakes say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense, top
from PIL import Image

import jtl
from jtl.data.folder import scan
from jtl.report.parameters import describe


def test_images_of_another_layout_or_number_of_channels_are_told():
    net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
    variables = net.init(jax.random.key(0), jnp.zeros((2, 16, 16, 3)))
    for shape in ((2, 16, 16, 1), (2, 3, 16, 16)):
        for train in (False, True):
            with pytest.raises(
                ValueError, match=rf"an input of shape \({shape[0]}, {shape[1]}, .*height, width, chann"
            ):
                net.apply(variables, jnp.zeros(shape), train=train, key=jax.random.key(0))


def test_vectors_of_another_width_are_told():
    net = jtl.network(backbone=dense(4), head=top(3))
    variables = net.init(jax.random.key(0), jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"an input of shape \(2, 6\).*\[batch, width\]"):
        jax.jit(lambda v, x: net.apply(v, x, train=False)[0].output)(variables, jnp.zeros((2, 6)))


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def test_a_folder_of_parts_is_no_folder_of_classes(tmp_path):
    for name in ("train", "val"):
        image(tmp_path / name / "ants" / "1.png")
    with pytest.raises(ValueError, match=r"holds the parts \['train', 'val'\] of a data set: give one, as '.*train'"):
        scan(tmp_path)


def test_one_class_folder_is_not_the_folder_of_classes(tmp_path):
    image(tmp_path / "1.png")
    with pytest.raises(ValueError, match="holds images and no folders: put the images of each class"):
        scan(tmp_path)


def test_blocks_are_listed_in_their_order():
    params = {f"block{i}": {"kernel": jnp.zeros(1)} for i in (10, 2, 1)}
    lines = describe(params, jtl.select(".*")).split("\n")
    names = [line.split()[0] for line in lines if "block" in line]
    assert names == ["block1/kernel", "block2/kernel", "block10/kernel"]
