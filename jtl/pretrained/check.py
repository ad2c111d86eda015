"""Checks that variables are those of a network, so that a saved network can be loaded again."""

from typing import Any

import jax
import numpy as np

from jtl._tracing.eval_shape import shapes
from jtl.backbones.registry import Config, Family
from jtl.model import ADAPTER, Variables
from jtl.params import flatten
from jtl.pretrained.outline import outline
from jtl.weights.formats.errors import WeightNameError

SHOWN = 8


def check_variables(family: Family, config: Config, variables: Any) -> Variables:
    """The variables, where they have the paths and shapes of the network that the config describes.

    Without it a head on other features, a linear layer without a bias or a state of `pmap_step` would be written, and
    no library could read them, or PyTorch's would draw anew what is missing.

    Args:
      family: of the network.
      config: its own.
      variables: to be saved; of a head as many classes as it has.

    Raises:
      TypeError: for what is no `Variables`, as a whole state.
      WeightNameError: naming parts that are too many, and paths that are missing, unknown or of another shape.
    """
    if not isinstance(variables, tuple) or len(variables) != 2:
        raise TypeError(
            f"variables is a {type(variables).__name__}: give jtl.Variables(params, stats); of a state of a run that is"
            " jtl.variables(state), with its moving averages jtl.Variables(jtl.averaged(state), state.stats)"
        )
    params, stats = variables
    params = {"head": {}, **params}  # a network without a head may lack the word too
    others = sorted(params.keys() - {"backbone", "head"})
    if others:
        raise WeightNameError(
            f"the parameters hold {others} besides 'backbone' and 'head', which no file of a network has; leave them"
            " out: jtl.Variables({name: params[name] for name in ('backbone', 'head')}, stats)"
        )
    found = {path: tuple(np.shape(leaf)) for path, leaf in flatten({**params, "stats": stats}).items()}
    out = found.get("head/out/kernel", ())
    classes = None if not params["head"] else out[-1] if out else 1
    wanted = outline(family, config, classes)
    lines = [f"{path} is missing" for path in wanted if path not in found]
    lines += [f"{path} is none of its parameters" for path in found if path not in wanted]
    lines += [
        f"{path} is {found[path]} in place of {shape}"
        for path, shape in wanted.items()
        if path in found and found[path] != shape
    ]
    attached = sum(ADAPTER in path.split("/") for path in found)
    if attached:
        raise WeightNameError(
            f"these variables hold {attached} arrays of adapters, which no file of a {config.model_type} has: give"
            " jtl.peft.merge(variables, adapter), or write the adapters alone by jtl.peft.save"
        )
    if lines:
        more = f", and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise WeightNameError(
            f"these are not the variables of this {config.model_type}: {'; '.join(lines[:SHOWN])}{more}."
            " Its head is the one that jtl.load gave, on the pooled features; of variables side by side, as pmap_step"
            " has them, give those of one device: jtl.unreplicated(variables)"
        )
    return Variables(params, stats)


def check_head(family: Family, pretrained: Any, params: Any) -> None:
    """Refuses the parameters of another head than the network's, whose file would be another network than the caller's.

    Nothing is traced where they have the shapes that the network came with.

    Args:
      family: of the network.
      pretrained: the network, as of `jtl.load`.
      params: to be saved; without a head they are of the backbone alone.

    Raises:
      WeightNameError: naming the shapes of both.
    """
    given = _shapes(params["head"])
    if not given or given == _shapes(pretrained.variables.params.get("head", {})):
        return
    key = jax.eval_shape(jax.random.key, 0)
    made = shapes(pretrained.network.init, key, family.example(pretrained.config))
    own = _shapes(made.params.get("head", {}))
    if given != own:
        raise WeightNameError(
            f"the head of these variables has {given}, and that of the network {own or 'no parameters'}: save them with"
            " the head that they are of, pretrained._replace(head=..., labels=names or None)"
        )


def _shapes(head: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(np.shape(leaf)) for path, leaf in sorted(flatten(head).items())}
