"""Outlines of networks: what their `init` makes, found once."""

from dataclasses import replace

import jax
import pytest

from jtl import heads
from jtl.backbones.registry import FAMILIES
from jtl.networks import network
from jtl.params import flatten
from jtl.pretrained.head import with_reads
from jtl.pretrained.outline import outline

RESNET = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 2]}


@pytest.mark.parametrize("classes", [None, 3])
def test_paths_and_shapes_are_those_of_init(classes, key):
    family = FAMILIES["resnet"]
    config = family.complete(RESNET, "transformers")
    others = {} if classes is None else {"head": heads.linear(classes)}
    made = jax.eval_shape(
        lambda key, x: network(backbone=family.backbone(config), **others).init(key, x), key, family.example(config)
    )
    assert {"backbone", "stats"} <= {path.split("/")[0] for path in outline(family, config)}
    wanted = {**made.params, "stats": made.stats}
    assert list(outline(family, config, classes).items()) == [
        (path, leaf.shape) for path, leaf in flatten(wanted).items()
    ]


def test_a_network_is_built_once_and_another_by_itself():
    built = []

    def backbone(config):
        built.append(list(config.depths))
        return FAMILIES["resnet"].backbone(config)

    family = replace(FAMILIES["resnet"], backbone=backbone)
    config = family.complete(RESNET, "transformers")
    first = outline(family, config)
    assert outline(family, family.complete(RESNET, "transformers")) == first
    assert built == [[1, 2]]
    deeper = outline(family, config.replace(depths=(1, 3)))
    assert built == [[1, 2], [1, 3]]
    assert deeper.items() > first.items()
    outline(family, config, 3)
    assert len(built) == 3


def test_heads_on_other_features_have_outlines_of_their_own():
    family = FAMILIES["resnet"]
    config = family.complete(RESNET, "transformers")
    assert outline(family, config, 3)["head/out/kernel"] == (8, 3)
    assert outline(family, with_reads(config, ("stage1", "stage2")), 3)["head/out/kernel"] == (4 + 8, 3)
