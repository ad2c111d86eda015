"""Adapters in the loops of other methods: the base stays, bit for bit, and a run goes on where it was killed."""

import jax
import numpy as np
import optax
import pytest
from nets import batch, dense, top

from jtl import peft
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.maml import maml
from jtl.methods.meta.update_rules import fixed_rate
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train import Checkpoints, fit, make_step, mesh

pytestmark = pytest.mark.whole

ADAPTER = peft.lora(2, (r"layer\d",))
ALONE = select("backbone/adapter/.*")


def adapted(widths=(16, 8)):
    net = network(backbone=dense(*widths), head=top(3))
    variables = net.init(jax.random.key(0), batch()["x"])
    return peft.attach(net, variables, ADAPTER, jax.random.key(1))


def trained(objective, variables, rows, trainable, steps=3):
    step = make_step(objective, optax.adam(1e-2), trainable=trainable)
    state, run = step.init(variables, jax.random.key(2)), jax.jit(step)
    for _ in range(steps):
        state, _ = run(state, rows)
    return flatten(state.params)


def changed(before, after):
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_maml_over_adapters_alone_leaves_the_base():
    """Both loops change adapters alone: after three outer steps A and B have moved, and nothing else by a bit."""
    net, variables = adapted()
    tasks = [{"support": batch(n=6, seed=2 * i), "query": batch(n=6, seed=2 * i + 1)} for i in range(2)]
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)
    objective = maml(finetune(net), fixed_rate(0.1), steps=2, adapted=ALONE)
    after = trained(objective, variables, rows, ALONE)
    moved = changed(flatten(variables.params), after)
    assert moved == {f"backbone/adapter/layer{i}/{name}" for i in (0, 1) for name in "ab"}


def test_dann_over_adapters_alone_leaves_the_base():
    net, adapters = adapted()
    target = {name: leaf for name, leaf in batch(seed=1).items() if name != "y"}
    rows = {"source": batch(), "target": target}
    objective = adapt(net, alignments=[dann(top(1))])
    variables = objective.init(jax.random.key(3), rows)
    variables = variables._replace(params={**variables.params, "backbone": adapters.params["backbone"]})
    after = trained(objective, variables, rows, select("backbone/adapter/.*", "critic/.*"))
    moved = changed(flatten(variables.params), after)
    adapters = {path for path in moved if path.startswith("backbone/adapter/")}
    assert len(adapters) == 4
    assert all(path.startswith("critic/") for path in moved - adapters)
    assert moved != adapters


class KilledError(Exception):
    pass


def killed(net, variables, folder):
    """The parameters after 6 steps without a break, and those of a run that was killed after 3 and resumed."""
    data = [batch(seed=i) for i in range(6)]

    def run(directory, kill=None):
        def hook(moment):
            if kill is not None and int(moment.step) == kill:
                raise KilledError

        step = make_step(finetune(net), optax.adam(1e-2), trainable=ALONE)
        checkpoints = Checkpoints(directory, every=1, keep=10)
        one = mesh(devices=jax.devices()[:1])
        state = step.init(variables, jax.random.key(2))
        return fit(
            step, state, data, steps=6, mesh=one, checkpoints=checkpoints, hooks=(hook,), progress=False
        ).state.params

    whole = flatten(run(folder / "whole"))
    with pytest.raises(KilledError):
        run(folder / "killed", kill=3)
    return whole, flatten(run(folder / "killed"))


def sizes(folder):
    """Bytes of what is frozen, which there is once, and the most of a step."""

    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    (frozen,) = (path for path in folder.iterdir() if path.name.startswith("frozen_"))
    steps = [path for path in folder.iterdir() if path.name.startswith("step_")]
    assert len(steps) >= 2
    return size(frozen), max(map(size, steps))


def test_a_killed_run_goes_on_and_saves_the_adapters_alone(tmp_path):
    """Killed after 3 of 6 steps: the same bits at the end. The base is on disk once, and a step has no room for it."""
    net, variables = adapted((256, 256))
    whole, again = killed(net, variables, tmp_path)
    for path, leaf in whole.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    assert changed(flatten(variables.params), whole) == {p for p in whole if "/adapter/" in p}
    bases = [leaf.nbytes for path, leaf in flatten(variables.params).items() if "/adapter/" not in path]
    frozen, step = sizes(tmp_path / "killed")
    assert frozen >= 0.8 * sum(bases)
    assert step < 0.3 * sum(bases)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_killed_run_on_a_base_in_few_bits_goes_on_with_the_same_bits(kind, tmp_path):
    """Codes and scales come back as they were, and lie on disk as small as in memory."""
    net, variables = peft.quantise(*adapted((256, 256)), (r"layer1",), kind)
    whole, again = killed(net, variables, tmp_path)
    for path, leaf in whole.items():
        assert again[path].dtype == leaf.dtype
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    assert changed(flatten(variables.params), whole) == {p for p in whole if "/adapter/" in p}
    codes = whole["backbone/layer1/kernel/codes"]
    assert codes.nbytes == 256 * 256 // (1 if kind == "int8" else 2)
    bases = [leaf.nbytes for path, leaf in flatten(variables.params).items() if "/adapter/" not in path]
    assert sizes(tmp_path / "killed")[0] < 1.3 * sum(bases) + 20_000
