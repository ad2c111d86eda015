"""What a user's first mistakes say."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense, top
from PIL import Image

import jtl
from jtl.data.folder import scan
from jtl.losses import _check_shape
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


def test_numbers_of_classes_as_floats_are_told():
    with pytest.raises(ValueError, match=r"numbers of classes must be integers: give y\.astype\(int\)"):
        _check_shape(jnp.zeros(4), (4, 3))  # what every loss calls; under beartype the annotation raises before it


def test_epochs_are_told_to_be_steps():
    with pytest.raises(TypeError, match=r"epochs=3: fit counts steps; .* give steps=3 \* len\(data\)"):
        jtl.fit(None, None, [], epochs=3)  # pyright: ignore


def test_a_stage_that_a_network_lacks_is_told_with_its_blocks():
    params = {"backbone": {"stem": {"kernel": 0}, **{f"block{i}": {"kernel": 0} for i in (10, 2, 1)}}}
    with pytest.raises(ValueError, match=r"'backbone' holds 'block1', 'block2', 'block10', 'stem'"):
        jtl.params.split(params, jtl.select("backbone/stage4/.*"))


def test_an_example_that_cannot_be_read_is_told_without_more(tmp_path):
    """Grain adds a note on its filters to every ValueError within its batches, which is what a bad image raises."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png' does not decode") as told:
        jtl.data.folder(tmp_path, batch_size=1, size=8, mode="RGB")[0]
    assert not getattr(told.value, "__notes__", [])


def test_what_has_no_steps_is_no_data_to_fit_on():
    batches = iter([{"x": np.zeros((2, 5)), "y": np.zeros(2, int)}])
    with pytest.raises(
        TypeError, match=r"the data are a list_iterator: give a data set, of which fit takes data\[step\]"
    ):
        unwrap(jtl.fit)(None, None, batches, steps=1)  # pyright: ignore
