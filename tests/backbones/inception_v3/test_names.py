"""Inception-v3 against a network of torch under torchvision's names, on randomised weights."""

import jax
import numpy as np
import pytest
import torchvision_files
from loading import images

from jtl import backbones
from jtl.backbones.registry import FAMILIES
from jtl.preprocess.image import IMAGENET
from jtl.weights.mapping.convert import convert

# A block of each kind. All of them, and torchvision itself, are in test_other_libraries.py.
ARCH = {"model_type": "inception_v3", "depth_multiplier": 1 / 16, "depths": [1, 2, 2]}


@pytest.mark.slow
@pytest.mark.compiling
def test_is_torchvisions_inception(tmp_path):
    """With maps of 2x3 pixels at the end."""
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_convnets import inception_v3

    torchvision_files.check(inception_v3(1 / 16, "5c 5d 6c 6d 6e 7c"), ARCH, images((107, 139)), tmp_path)


def test_the_second_classifier_is_left():
    """And the count of the published parameters, 27,161,264 with it, is met without its 3,326,696."""
    family = FAMILIES["inception_v3"]
    config = family.complete({"model_type": "inception_v3"}, "")
    shapes = jax.eval_shape(family.backbone(config).init, jax.random.key(0), family.example(config))
    count = sum(a.size for a in jax.tree.leaves(shapes.params)) + 2049 * 1000
    assert count == 27_161_264 - 3_326_696
    rules = family.tables(config)["torchvision"]
    name = "AuxLogits.conv0.bn.running_mean"
    _, report = convert({name: np.zeros(128)}, rules, {})
    assert report.unused == [name]


def test_transform_input_is_preprocessing():
    """torchvision scales `x` normalised for ImageNet by `x s / 0.5 + (m - 0.5) / 0.5`: what 0.5 and 0.5 normalise."""
    family = FAMILIES["inception_v3"]
    changed, plain = (family.usual("inception_v3", family.complete({"transform_input": t})) for t in (True, False))
    assert changed[:3] == plain[:3] == (342, 299, "bilinear")
    (mean, std), (m, s) = plain[3:5], (np.array(v) for v in IMAGENET)
    pixels = np.random.default_rng(0).random((4, 3))
    theirs = (pixels - mean) / std * (s / 0.5) + (m - 0.5) / 0.5
    np.testing.assert_allclose((pixels - changed.mean) / changed.std, theirs, atol=1e-12)


def test_numbers_that_make_no_network_are_refused():
    for options, message in (({"width": 0.0}, "width=0.0"), ({"depths": (3, 6, 3)}, r"depths=\(3, 6, 3\)")):
        with pytest.raises(ValueError, match=message):
            backbones.inception_v3(**options)
