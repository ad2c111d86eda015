"""The paths and shapes of a network's parameters and statistics, without their values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import jax

from jtl._tracing.eval_shape import shapes
from jtl.backbones.family import Config, Family
from jtl.networks import network as whole
from jtl.params import flatten
from jtl.pretrained.head import head_of

KEPT = 64  # outlines; one takes some hundred small objects


@dataclass(frozen=True)
class _Network:
    """The key of the cache: networks are equal if everything is equal that their shapes depend on."""

    family: Family
    config: Config
    classes: int | None


def outline(family: Family, config: Config, classes: int | None = None) -> Mapping[str, tuple[int, ...]]:
    """Maps each path under `backbone/`, `head/` and `stats/` to its shape, in the order of the tree.

    A network is traced once per process, however often its files are read, because tracing a ViT-B takes nearly as long
    as reading its bytes.

    Args:
      family: the network's family.
      config: the network's config.
      classes: the number of classes of the head; None for no head.

    Raises:
      ValueError: if the network is a variant that jtl does not have.
    """
    return _traced(_Network(family, config, classes))


@lru_cache(KEPT)
def _traced(network: _Network) -> Mapping[str, tuple[int, ...]]:
    family, config = network.family, network.config
    backbone = family.backbone(config)
    head = {} if network.classes is None else {"head": head_of(family, config, network.classes)}

    def made(key, x):
        variables = whole(backbone=backbone, **head).init(key, x)
        return {**variables.params, "stats": variables.stats}

    tree = shapes(made, jax.eval_shape(jax.random.key, 0), family.example(config))
    return MappingProxyType({path: leaf.shape for path, leaf in flatten(tree).items()})
