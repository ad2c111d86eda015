"""Every family's name tables: what they map, how many rules they take, and what they write."""

import re

import names_before
import numpy as np
import pytest

from jtl.backbones.registry import FAMILIES
from jtl.params import unflatten
from jtl.weights import Rule, convert, export
from jtl.weights.formats.errors import WeightNameError
from jtl.weights.mapping.rules import Rules
from jtl.weights.mapping.transforms import Transform, identity

TOGETHER = Transform("stacked", list, lambda *parts: np.stack(parts))
"""As a split of a fused layer, for arrays of any shape."""


def tables_of(config):
    family = FAMILIES[config["model_type"]]
    return family.tables(family.complete(dict(config), ""))


def test_every_family_of_then_is_compared():
    assert {before.config["model_type"] for before in names_before.tables()} <= set(FAMILIES)
    for before in names_before.tables():
        compared = [other.naming for other in names_before.tables() if other.config == before.config]
        assert compared == list(tables_of(before.config))


@pytest.mark.parametrize("before", names_before.tables(), ids=str)
def test_a_table_maps_what_it_did_with_a_rule_for_every_block(before):
    rules = Rules(tables_of(before.config)[before.naming])
    found = {name: rules.first(name) for name in before.names}
    mapped = {name: (first[1], first[0].transform.name) for name, first in found.items() if first}
    assert mapped == before.names


@pytest.mark.parametrize("before", names_before.tables(), ids=str)
def test_what_a_table_writes_it_reads(before):
    """By names that were the parameters' before too; each parameter is a number of its own."""
    table = [
        rule._replace(transform=TOGETHER if isinstance(rule.path, tuple) else identity)
        for rule in tables_of(before.config)[before.naming]
    ]
    params = unflatten({path: np.array([i], np.float32) for i, path in enumerate(before.paths)})
    file = export(params, table)
    for name, array in file.items():
        assert [before.paths[int(i)] for i in array.ravel()] == list(before.names[name][0])
    back, report = convert(file, table, params)
    np.testing.assert_equal(back, params)
    assert not report.unused
    np.testing.assert_equal(export(back, table), file)


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ({"model_type": "resnet", "depths": [3, 8, 36, 3]}, {"transformers": 20, "torchvision": 20, "timm": 20}),
        ({"model_type": "vit"}, {"transformers": 20 + 16, "timm": 18, "original": 13}),
    ],
)
def test_a_rule_serves_a_layer_of_all_blocks(config, counts):
    """ResNet-152 and ViT-B, whose blocks have 16 other names in memory."""
    assert {naming: len(table) for naming, table in tables_of(config).items()} == counts


def test_a_block_that_the_network_lacks_is_unexpected():
    table = tables_of({"model_type": "vit"})["transformers"]
    name = "vit.encoder.layer.{}.layernorm_before.bias"
    params = {"backbone": {"block1": {"norm1": {"bias": np.zeros(2, np.float32)}}}}
    held = {name.format(number): np.zeros(2, np.float32) for number in (0, 12, "9" * 5000)}
    message = f"  {name.format(12)} (as backbone/block13/norm1/bias)"
    with pytest.raises(WeightNameError, match=re.escape(message)):
        convert(held, table, params)


def test_a_longer_stage_is_no_block_of_the_next():
    """Where blocks are counted through all stages, and by stage in the file."""
    config = {"model_type": "efficientnet", "depth_coefficient": 1.0, "padding": "torch"}
    for naming, name in (("timm", "blocks.1.{}.conv_dw.weight"), ("torchvision", "features.2.{}.block.1.0.weight")):
        rules = Rules(tables_of(config)[naming])
        found = [rules.first(name.format(number)) for number in range(3)]
        assert [first and first[1] for first in found] == [
            ("backbone/block2/depthwise/conv/kernel",),
            ("backbone/block3/depthwise/conv/kernel",),
            None,
        ]


def test_numbers_with_leading_zeros_are_written_with_as_many():
    table = [Rule(r"unit(\d\d)/w", "block{1+0}/w")]
    params = {f"block{i}": {"w": np.array(i)} for i in (1, 9, 10, 42)}
    file = export(params, table)
    assert list(file) == ["unit01/w", "unit09/w", "unit10/w", "unit42/w"]
    assert convert(file, table, params)[0] == params
    with pytest.raises(WeightNameError, match="no rule of the table gives the parameter 'block100/w'"):
        export({"block100": {"w": np.array(0)}}, table)
