"""One process of tests/train/test_distributed.py: trains, saves, says the digest of what it has."""

import os
import signal
import sys

sys.path.insert(0, os.environ["JTL_ROOT"])
processes, process, port, folder, steps, until = (int(v) if v.isdigit() else v for v in sys.argv[1:7])

from jtl.networks import network
from jtl.train.parallel import distributed

if processes > 1:
    distributed.initialize(f"localhost:{port}", processes, process)

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import backbones, heads, train
from jtl.data.episodes import episodes
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.methods.meta.maml import maml
from jtl.methods.meta.update_rules import learned_rate


class Data:
    """This process's rows of a batch of 16."""

    def __init__(self, epoch=10, rows=16):
        self.epoch, self.rows = epoch, rows

    def __len__(self):
        return self.epoch

    def __getitem__(self, step):
        x = np.random.default_rng(step).normal(size=(16, 6)).astype(np.float32)
        whole = {"x": x, "y": (x.sum(1) > 0).astype(np.int32), "mask": np.arange(16) < 16 - step % 5}
        rows = slice(process * 16 // processes, process * 16 // processes + self.rows // processes)
        return {name: value[rows] for name, value in whole.items()}


def main():
    net = network(backbone=backbones.mlp((16,), dropout=0.1), head=heads.linear(2))
    variables = net.init(jax.random.key(0), jnp.zeros((2, 6)))
    step = train.make_step(finetune(net), optax.adamw(1e-2), ema=0.9)
    state = step.init(variables, jax.random.key(1))
    saver = train.Checkpoints(folder, every=4)

    if until == "pmap":
        run, state = train.pmap_step(step), train.replicated(state)
        for number in range(steps):
            state, metrics = run(state, train.split_batch(Data()[number]))
        return report(train.unreplicated(state).params, metrics["loss"])

    if until == "meta":
        inner = finetune(network(backbone=backbones.mlp((16,)), head=heads.linear(3)))
        objective = maml(inner, learned_rate(0.1), steps=2)
        tasks = episodes(np.random.default_rng(0).normal(size=(9, 8, 6)).astype(np.float32), way=3, shot=2, query=3,
                         tasks=16)  # fmt: skip
        step = train.make_step(objective, optax.adamw(1e-2))
        state = step.init(objective.init(jax.random.key(0), tasks[0]), jax.random.key(1))
        done = train.fit(step, state, tasks, steps=steps, mesh=train.mesh(), progress=False)
        return report(done.state.params, done.history[-1]["loss"])

    if until == "collect":
        rows = train.collect(evaluation(net), variables, Data(3), only=("output", "y"), mesh=train.mesh())
        print("labels", rows["y"].astype(np.int32).tobytes().hex(), flush=True)
        return report({"output": rows["output"]}, 0.0)

    if until == "differ":
        told = train.mesh()
        variables = jax.tree.map(np.asarray, variables)
        other = step.init(net.init(jax.random.key(process), jnp.zeros((2, 6))), state.key)
        few = Data(2, rows=16 if process else 8)
        for differs in (
            lambda: train.fit(step, other, Data(), steps=1, progress=False),
            lambda: train.replicated(other),
            lambda: train.fit(step, state, Data(9 + process), steps=1, progress=False),
            lambda: train.fit(step, state, few, steps=1, progress=False),
            lambda: train.evaluate(evaluation(net), variables, Data(2 + process), mesh=told),
            lambda: train.evaluate(evaluation(net), variables, few, mesh=told),
        ):
            try:
                differs()
            except ValueError as error:
                print("differs", error, flush=True)
        return None

    def hook(moment):
        print("step", moment.step, flush=True)
        if until == "term" and process == 1 and moment.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    rules = [("backbone/.*/kernel", train.fsdp(1)), (".*", train.replicate)]
    validation = train.Validation(evaluation(net), Data(3), every=5)
    mesh = train.mesh(fsdp=2)
    done = train.fit(
        step, state, Data(), steps=steps, mesh=mesh, rules=rules, checkpoints=saver, validation=validation, hooks=[hook]
    )
    whole = jax.jit(lambda p: p, out_shardings=jax.NamedSharding(mesh, jax.P()))(done.state.params)
    return report(whole, done.history[-1]["loss"])


def report(params, loss):
    values = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)])
    print("devices", jax.device_count(), "params", values.tobytes().hex(), flush=True)
    print("validated", float(loss).hex(), flush=True)


main()
