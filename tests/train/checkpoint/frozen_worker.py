"""One process of test_frozen_processes.py: saves twice, or restores and says what it read."""

import os
import sys

sys.path.insert(0, os.environ["JTL_ROOT"])
processes, process, port = map(int, sys.argv[1:4])
folder, what = sys.argv[4:6]

from jtl.train.parallel import distributed

if processes > 1:
    distributed.initialize(f"localhost:{port}", processes, process)

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import train
from jtl.model import Variables
from jtl.params import select
from jtl.train.parallel.sharding import jit_step


def main():
    params = {"backbone": {"kernel": jnp.arange(64.0).reshape(8, 8)}, "head": {"bias": jnp.zeros(8)}}
    step = train.make_step(lambda *_: None, optax.adam(1e-2), trainable=select("head/.*"))
    mesh = train.mesh(fsdp=4)
    rules = [("backbone/.*", train.fsdp(1)), (".*", train.replicate)]
    _, state = jit_step(step, step.init(Variables(params, {}), jax.random.key(0)), mesh, rules)
    trains = step.trains(state.params)
    saver = train.Checkpoints(folder)
    if what == "save":
        for _ in range(2):
            saver.save(state, trains=trains)
            move = jax.jit(
                lambda s: s._replace(
                    step=s.step + 1, params=s.params | {"head": {"bias": s.params["head"]["bias"] + 1}}
                )
            )
            state = move(state)
        saver.wait()
    state = saver.restore(state, trains=trains)
    whole = jax.jit(lambda p: p, out_shardings=jax.NamedSharding(mesh, jax.P()))(state.params)
    assert state.params["backbone"]["kernel"].sharding.spec == jax.P("fsdp")
    print("read", int(state.step), float(whole["head"]["bias"][0]), np.asarray(whole["backbone"]["kernel"]).sum())


main()
