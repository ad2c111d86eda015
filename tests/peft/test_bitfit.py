"""BitFit on a small ViT: a step of training changes biases and the head alone."""

import jax
import numpy as np
import optax
import pytest
from small_vit import IMAGES, base

from jtl import peft
from jtl.methods.finetune.finetune import finetune
from jtl.params import flatten
from jtl.train import make_step


def test_trains_biases_and_the_head():
    net, variables = base()
    step = make_step(finetune(net), optax.adam(1e-2), trainable=peft.bitfit("head/.*"))
    batch = {"x": IMAGES, "y": np.array([0, 1, 2, 0])}
    state, _ = jax.jit(step)(step.init(variables, jax.random.key(0)), batch)
    before, after = flatten(variables.params), flatten(state.params)
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    biases = {path for path in before if path.split("/")[-1] == "bias"}
    assert len(biases) > 10
    # A key's bias adds one number to all logits of a softmax, so its gradient is rounding.
    head = {"head/out/kernel"}
    assert {path for path in biases if "attention/key" not in path} | head <= changed <= biases | head


def test_no_bias_raises():
    with pytest.raises(ValueError, match="matches no parameter"):
        peft.bitfit()({"dense": {"kernel": 0, "bias_like": 0}})
