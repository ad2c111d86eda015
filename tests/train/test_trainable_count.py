"""How many parameters are trained, and how many there are, is told once without asking."""

import logging

import jax
import optax
from nets import batch, dense, top

from jtl import peft
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.params import select
from jtl.train import fit, make_step, mesh

HAND = {"layer0": 5 * 4 + 4, "head": 4 * 3 + 3, "a": 5 * 2, "b": 2 * 4}


def adapted():
    net = network(backbone=dense(4), head=top(3))
    variables = net.init(jax.random.key(0), batch()["x"])
    return peft.attach(net, variables, peft.lora(2, ("layer0",)), jax.random.key(1))


def test_fit_begins_with_the_count_of_what_a_mask_selects(capsys):
    net, variables = adapted()

    def said(patterns, **options):
        step = make_step(finetune(net), optax.sgd(0.1), trainable=select(*patterns))
        state = step.init(variables, jax.random.key(2))
        fit(step, state, [batch()], steps=1, mesh=mesh(devices=jax.devices()[:1]), **options)
        return capsys.readouterr().out.splitlines()

    assert sum(HAND.values()) == 57
    counts = HAND["a"] + HAND["b"], HAND["b"] + HAND["head"]
    for patterns, count in zip((("backbone/adapter/.*",), (".*/b", "head/.*")), counts, strict=True):
        first, *rest = said(patterns)
        assert first == f"57 parameters, {count} trainable ({100 * count / 57:.2f} %), {57 - count} frozen"
        assert not any("trainable" in line for line in rest)
    assert said(("head/.*",), progress=False) == []


def test_attach_tells_its_logger(caplog):
    with caplog.at_level(logging.INFO, "jtl.peft"):
        _, variables = adapted()
        peft.attach(dense(4), dense(4).init(jax.random.key(0), batch()["x"]), peft.ssf((".*",)), jax.random.key(1))
    assert caplog.messages == [
        "1 adapted modules, 18 adapter parameters, 0.316 of all 57;"
        " jtl.select('backbone/adapter/.*') trains these alone",
        "1 adapted modules, 8 adapter parameters, 0.250 of all 32; jtl.select('adapter/.*') trains these alone",
    ]
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params)) == 57
