"""Labels of 8 bits are those of 32: -1 is not 255, and 256 classes are not none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense, top

from jtl import finetuning
from jtl.methods.adapt.lmmd import lmmd_loss
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network

KEY = jax.random.key(0)
NET = network(backbone=dense(4), head=top(256))
PAIR = network(backbone=dense(4), head=top(256), source=top(2))
SHARES = np.tile(np.array([[0.75, 0.25], [0.25, 0.75]], np.float32), (128, 1))
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.array([255, 255, 0, 3, 255, 3])
CASES = {
    "ignore": finetune(NET, ignore=-1),
    "bi_tuning": finetune(NET, terms=[finetuning.bi_tuning(width=4, kernel="head/out/kernel")]),
    "co_tuning": finetune(PAIR, lambda z, y: 0 * z["head"].sum(-1), [finetuning.co_tuning(SHARES)], metrics={}),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_of_eight_bits_are_those_of_thirty_two(name):
    found = []
    for dtype in (np.uint8, np.int32):
        rows = {"x": X, "y": Y.astype(dtype)}
        variables = CASES[name].init(KEY, rows)
        found.append(float(total(as_terms(CASES[name](variables.params, variables.stats, rows, KEY, 0)[0]))))
    assert found[0] == found[1] != 0


def test_a_masked_row_has_no_class_in_eight_bits():
    f, z, mask = jnp.asarray(X), 9 * jax.nn.one_hot(Y, 256), np.arange(6) != 4
    found = [lmmd_loss(f, 0.5 * f, Y.astype(dtype), z, mask) for dtype in (np.uint8, np.int32)]
    assert found[0] == found[1] > 0
