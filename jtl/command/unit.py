"""The unit of a network that predicts numbers: it learns `(y − centre) / scale`, and is saved in the unit of y."""

from typing import Any

import numpy as np

from jtl.backbones.config import Config
from jtl.model import Variables
from jtl.pretrained.load import Pretrained

PROBLEM, UNIT = "problem_type", "jtl_target"
"""The entries of a config that name the task, as in transformers, and the centre and scale of outputs in training."""


def forgotten(config: Config) -> Config:
    """Returns the config without what it says about a head that a new one replaces."""
    return config.replace(extra={name: value for name, value in config.extra.items() if name not in (PROBLEM, UNIT)})


def in_training(loaded: Pretrained, centre: float, scale: float) -> Pretrained:
    """Returns the network with its unit in the config, where the description of its checkpoints keeps it.

    Raises:
      ValueError: if the head is not one affine map, whose bias can take the centre.
    """
    head: Any = loaded.variables.params["head"]
    if set(head) != {"out"} or set(head["out"]) != {"kernel", "bias"}:
        raise ValueError(
            f"--task regression with a {loaded.config.model_type}: its head is not one linear layer with a bias; use"
            " jtl.tasks.regression in Python"
        )
    own = {PROBLEM: "regression", UNIT: {"centre": centre, "scale": scale}}
    return loaded._replace(config=loaded.config.replace(extra={**loaded.config.extra, **own}))


def in_units(loaded: Pretrained) -> Pretrained:
    """Returns the network whose outputs are in the unit of the labels: `x (W s) + (b s + c)`.

    A network without a unit in its config is returned as it is.

    Raises:
      ValueError: for a unit that is not a finite centre and a positive scale.
    """
    given: Any = loaded.config.extra.get(UNIT)
    if given is None:
        return loaded
    try:
        centre, scale = float(given["centre"]), float(given["scale"])
        if not (np.isfinite(centre) and 0 < scale < np.inf):
            raise ValueError("out of range")
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{UNIT}={str(given)[:120]}: give a finite centre and a positive scale") from error
    out: Any = loaded.variables.params["head"]["out"]
    kernel, bias = (np.asarray(out[name]) for name in ("kernel", "bias"))
    wide = {"kernel": kernel.astype(np.float64) * scale, "bias": bias.astype(np.float64) * scale + centre}
    params = {**loaded.variables.params, "head": {"out": {n: a.astype(kernel.dtype) for n, a in wide.items()}}}
    rest = {name: value for name, value in loaded.config.extra.items() if name != UNIT}
    return loaded._replace(
        config=loaded.config.replace(extra=rest), variables=Variables(params, loaded.variables.stats)
    )  # fmt: skip
