"""The compiled programs of a run, one for each phase and length of batches."""

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from jtl.train.progress import Silent
from jtl.train.state import State


class Programs:
    """The program of each phase and length of batches, compiled at its first step."""

    def __init__(self, program: Callable, display: Silent, mesh: Mesh):
        self.program, self.display, self.mesh = program, display, mesh
        self.seconds = 0.0
        self.jitted: Any = None
        self.taken: dict[tuple, Any] = {}

    def of(self, step: int, state: State, batch: Any) -> Callable:
        """The program that takes a step, counted from 0."""
        jitted = self.program(step)
        if jitted is not self.jitted:
            self.jitted, self.taken = jitted, {}
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        if shapes not in self.taken:
            began = time.monotonic()
            with jax.transfer_guard("allow"):
                self.taken[shapes] = jitted.lower(state, batch).compile()
            seconds = time.monotonic() - began
            self.seconds += seconds
            devices = self.mesh.devices
            self.display.say(f"compiled in {seconds:.1f} s for {devices.size} x {devices.flat[0].device_kind}")
        return self.taken[shapes]
