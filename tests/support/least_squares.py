"""A least-squares problem small enough to be followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.train import fit, make_step, mesh
from jtl.typing import Aux


def objective(params, stats, batch, key, step):
    out = batch["x"] @ params["head"]["kernel"] + params["head"]["bias"]
    noise = jax.random.normal(key, out.shape) * 0.01
    loss = mean((out + noise - batch["y"]) ** 2, batch["mask"])
    return loss, Aux({"seen": stats["seen"] + 1}, {"error": mean(jnp.abs(out - batch["y"]), batch["mask"])})


def begun():
    """A step, and the state before the first."""
    step = make_step(objective, optax.adam(0.05))
    params = {"head": {"kernel": jnp.zeros(3), "bias": jnp.zeros(())}}
    return step, step.init(Variables(params, {"seen": jnp.zeros((), jnp.int32)}), jax.random.key(0))


class Data:
    """Eight rows a batch, a function of the step; counts how often it was asked."""

    def __init__(self, epoch=4, poison=None):
        self.epoch, self.poison, self.asked = epoch, poison, []

    def __len__(self):
        return self.epoch

    def __getitem__(self, step):
        self.asked.append(step)
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, 3)).astype(np.float32)
        y = x @ np.float32([1, -2, 3]) + 1
        if step == self.poison:
            x[0] = np.inf
        return {"x": x, "y": y, "mask": np.arange(8) < 8 - step % 3}


def train(step, state, data, **options):
    """`fit` on two devices, which compile faster than eight, and silent."""
    return fit(step, state, data, **({"mesh": mesh(devices=jax.devices()[:2]), "progress": False} | options))
