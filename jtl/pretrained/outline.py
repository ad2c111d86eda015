"""The parameters and statistics of a family's network before there are any: their paths and shapes."""

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

KEPT = 64  # outlines; one is some hundred small objects


@dataclass(frozen=True)
class _Network:
    """Networks are equal where all that shapes depend on is."""

    family: Family
    config: Config
    classes: int | None


def outline(family: Family, config: Config, classes: int | None = None) -> Mapping[str, tuple[int, ...]]:
    """Path to shape, in the order of the tree: all under `backbone/`, `head/` and `stats/`.

    A network is traced once in a process, however often files of it are read: of a ViT-B that takes nearly as long as
    reading its bytes.

    Args:
      family: the network's.
      config: its own.
      classes: of the head; None for none.

    Raises:
      ValueError: the network is a variant that jtl's is not.
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
