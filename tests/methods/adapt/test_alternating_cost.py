"""Alternating turns against the same two turns in plain jax: the same parameters, at the same cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from nets import batch, largest_difference, parts

from jtl.methods.adapt.dann import alternating
from jtl.params import select
from jtl.train.step import make_step

WEIGHT, RATE, ROWS = 0.7, 0.1, 64


def layer(p, x):
    return x @ p["kernel"] + p["bias"][None]


def features(body, x):
    for p in body.values():
        x = jax.nn.relu(layer(p, x))
    return x


def critic_loss(critic, found):
    """Half the mean loss on rows of the source, which come first, and half that of the target's."""
    said = layer(critic["out"], found)[:, 0]
    return 0.5 * jax.nn.softplus(-said[:ROWS]).mean() + 0.5 * jax.nn.softplus(said[ROWS:]).mean()


def network_loss(net, critic, x, y):
    found = features(net["backbone"], x)
    logits = layer(net["head"]["out"], found)[:ROWS]
    source = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return source - WEIGHT * critic_loss(critic, found)


def by_hand(params, rows):
    """First the critic on features that stand still, then the network against the critic that has just learned."""
    net = {"backbone": params["backbone"], "head": params["head"]}
    x, y = jnp.concatenate([rows["source"]["x"], rows["target"]["x"]]), rows["source"]["y"]
    grads = jax.grad(critic_loss)(params["critic"], features(net["backbone"], x))
    critic = jax.tree.map(lambda p, g: p - RATE * g, params["critic"], grads)
    net = jax.tree.map(lambda p, g: p - RATE * g, net, jax.grad(network_loss)(net, critic, x, y))
    return {**net, "critic": critic}


def test_turns_are_the_turns_by_hand_and_cost_as_much(key):
    source, target = batch(n=ROWS, dim=128), batch(n=ROWS, dim=128, seed=1)
    rows = {"source": source, "target": {"x": target["x"]}}
    net, critic, variables = parts(key, source["x"], widths=(128, 128), critic=True)
    step = make_step(
        list(alternating(net, critic, weight=WEIGHT)), [optax.sgd(RATE), optax.sgd(RATE)],
        trainable=[select("critic/.*"), select("backbone/.*", "head/.*")],
    )  # fmt: skip
    state = step.init(variables, key)
    ours = jax.jit(step.update).lower(state, rows).compile()
    theirs = jax.jit(by_hand).lower(variables.params, rows).compile()
    params = variables.params
    for _ in range(3):
        (state, _), params = ours(state, rows), theirs(params, rows)
    assert largest_difference(state.params, params) < 1e-6
    assert largest_difference(state.params, variables.params) > 1e-2, "three steps must move what is compared"
    flops = [program.cost_analysis()["flops"] for program in (ours, theirs)]
    np.testing.assert_allclose(flops[0], flops[1], rtol=0.02)
