"""How many blocks a network has, told before it is traced."""

import names_before
import pytest

from jtl.backbones.registry import FAMILIES
from jtl.pretrained.depth import blocks_of, check_depth
from jtl.pretrained.outline import outline
from jtl.weights import WeightNameError

DECODERS = ("llama", "mistral", "qwen2", "qwen3")  # of which `names_before` has no record


@pytest.mark.parametrize("before", names_before.tables(), ids=str)
def test_a_config_says_as_many_blocks_as_its_parameters_have(before):
    family = FAMILIES[before.config["model_type"]]
    assert family.count_blocks(family.complete(dict(before.config))) == len(blocks_of(before.paths))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_has_as_many_blocks_as_its_config_says(kind):
    family = FAMILIES[kind]
    small = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 3}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    config = family.complete(small)
    assert family.count_blocks(config) == len(blocks_of(outline(family, config))) == 3


def test_every_family_is_counted():
    assert {*FAMILIES} == {before.config["model_type"] for before in names_before.tables()} | {*DECODERS}


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
        assert family.count_blocks(family.complete(family.named(name, {}) or {})) == count


def test_a_network_out_of_all_proportion_is_refused():
    family = FAMILIES["vit"]
    config = family.complete({"model_type": "vit", "num_hidden_layers": 101})
    check_depth(family, config, 25)
    with pytest.raises(WeightNameError, match="a vit of 101 blocks cannot be in a file of 24 tensors; check how many"):
        check_depth(family, config, 24)
