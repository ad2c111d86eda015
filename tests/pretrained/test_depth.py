"""How many blocks a network has, told before it is traced."""

import names_before
import pytest

from jtl.backbones.registry import FAMILIES
from jtl.pretrained.depth import blocks, blocks_of, check_depth
from jtl.weights import WeightNameError


@pytest.mark.parametrize("before", names_before.tables(), ids=str)
def test_a_config_says_as_many_blocks_as_its_parameters_have(before):
    config = FAMILIES[before.config["model_type"]].complete(dict(before.config), "")
    assert blocks(config.to_dict()) == len(blocks_of(before.paths))


def test_blocks_of_known_networks():
    """As their papers count them."""
    for kind, name, count in (
        ("resnet", "resnet152", 50),
        ("densenet", "densenet121", 58),
        ("efficientnet", "efficientnet_b0", 16),
        ("mobilenet_v2", "mobilenet_v2", 17),
        ("vgg", "vgg16", 13),
    ):
        family = FAMILIES[kind]
        assert blocks(family.complete(family.named(name, {}) or {}).to_dict()) == count


def test_a_network_out_of_all_proportion_is_refused():
    config = FAMILIES["vit"].complete({"model_type": "vit", "num_hidden_layers": 101}, "")
    check_depth(config, 25)
    with pytest.raises(WeightNameError, match="a vit of 101 blocks cannot be in a file of 24 tensors; check how many"):
        check_depth(config, 24)
