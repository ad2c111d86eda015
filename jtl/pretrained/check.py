"""Checks that variables belong to a network, so that a saved network can be loaded again."""

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
    """Returns the variables if they have the paths and shapes of the network that the config describes.

    Without this check a head on other features, a linear layer without a bias, or a state of `pmap_step` could be
    saved. No library could load them, or PyTorch's would re-initialise the missing parameters.

    Args:
      family: the network's family.
      config: the network's config.
      variables: the variables to be saved; their head may have any number of classes.

    Raises:
      TypeError: for anything but `Variables`, such as a whole training state.
      WeightNameError: naming surplus parts, and paths that are missing, unknown or of another shape.
    """
    if not isinstance(variables, tuple) or len(variables) != 2:
        raise TypeError(
            f"variables is a {type(variables).__name__}: give jtl.Variables(params, stats); of a state of a run that is"
            " jtl.variables(state), with its moving averages jtl.Variables(jtl.averaged(state), state.stats)"
        )
    params, stats = variables
    params = {"head": {}, **params}  # a network without a head may lack this key
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
    """Refuses parameters of a head other than the network's, because their file would describe another network.

    Nothing is traced if they have the shapes of the loaded variables.

    Args:
      family: the network's family.
      pretrained: the network, as `jtl.load` returns it.
      params: the parameters to be saved; an empty head stands for the backbone alone.

    Raises:
      WeightNameError: naming the shapes of both heads.
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
