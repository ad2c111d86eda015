"""EfficientNetV2 by the names of torchvision; timm's own networks are in test_other_libraries.py."""

import pytest
import torchvision_files
from loading import images

from jtl.backbones.registry import FAMILIES
from jtl.preprocess.image import HALF, IMAGENET
from jtl.pretrained.presets import architecture, presets
from jtl.pretrained.save import save

FAMILY = FAMILIES["efficientnet_v2"]
ARCH = {
    "model_type": "efficientnet_v2",
    "stem_channels": 8,
    "block_types": ["conv", "fused", "inverted"],
    "expand_ratios": [1, 2, 3],
    "out_channels": [8, 16, 16],
    "num_block_repeats": [1, 2, 1],
    "strides": [1, 2, 2],
    "hidden_dim": 20,
    "drop_connect_rate": 0.0,
}


def test_is_torchvisions_efficientnet_v2(tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_convnets import efficientnet

    net = efficientnet([(1, 3, 1, 8, 1), (2, 3, 2, 16, 2), (3, 3, 2, 16, 1)], 8, 20, 1e-3, fuse=2)
    loaded = torchvision_files.check(net, ARCH, images((23, 18)), tmp_path)
    with pytest.raises(ValueError, match="transformers has no network of the family 'efficientnet_v2'"):
        save(tmp_path / "out", loaded)


@pytest.mark.parametrize("name", presets(FAMILY))
def test_what_a_name_says_is_found_again(name):
    """A network of which the measures alone are known is written under the name that its library has for them."""
    found = FAMILY.named(name, {"in_chans": 1})
    assert found is not None
    config = FAMILY.complete(found, "")
    theirs = ("torch", 1e-3) if "_v2_" in name else ("same", 1e-3) if name.startswith("tf_") else ("torch", 1e-5)
    assert (config.padding, config.batch_norm_eps) == theirs
    (naming,) = FAMILY.tables(config)
    assert naming == ("torchvision" if "_v2_" in name else "timm")
    assert architecture(FAMILY, config, naming) == (name, {"in_chans": 1})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("efficientnet_v2_m", (480, 480, "bilinear", *IMAGENET)),
        ("efficientnet_v2_l", (480, 480, "bicubic", *HALF)),
        ("tf_efficientnetv2_s", (300, 300, "bicubic", *HALF)),
        ("tf_efficientnetv2_m", ((384, 384), None, "bicubic", *HALF)),
        ("tf_efficientnetv2_b3", (265, 240, "bicubic", *IMAGENET)),
        ("efficientnetv2_rw_s", (288, 288, "bicubic", *IMAGENET)),
    ],
)
def test_what_images_go_through_by_a_name(name, wanted):
    assert FAMILY.usual(name, FAMILY.complete(FAMILY.named(name, {}) or {})) == (*wanted, "round")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_types": ["conv", "fused", "edge"]}, "block_types=.*edge.*: give a list of"),
        ({"strides": [1, 2]}, r"are of \[3, 3, 3, 3, 2\] stages: give as many"),
        ({"padding": 1}, "padding=1: give one of"),
    ],
)
def test_what_is_no_measure_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        FAMILY.complete({**ARCH, **change}, "")
