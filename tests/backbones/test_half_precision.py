"""Networks in bfloat16: `load(dtype=)`, and a training step that computes in it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conv_parity import QUICKLY
from loading import images
from running import forward

import jtl
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from text_references import hf_text, texts
from torch_references import hf_resnet

pytestmark = [pytest.mark.slow, pytest.mark.compiling]  # parity of networks that rarely change, in `make test-all`

NETS = {
    "resnet": (lambda: hf_resnet("basic", width=8, depths=(1, 1)), lambda: images((32, 32), 4)),
    "bert": (lambda: hf_text("bert"), lambda: texts("bert")),
}


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_is_near_float32(name, tmp_path):
    """Outputs and the gradients of a training step: 8 bits of mantissa, some tens of roundings one after another."""
    net, x = (make() for make in NETS[name])
    net.save_pretrained(tmp_path)
    wide, low = load(tmp_path), load(tmp_path, dtype=jnp.bfloat16)
    assert {a.dtype for a in jax.tree.leaves(low.variables.params)} == {jnp.dtype(jnp.bfloat16)}
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(low.variables.stats))

    objective = jtl.finetune(wide.network, frozen_stats=True)
    batch = {"x": x, "y": np.arange(len(jax.tree.leaves(x)[0]), dtype=np.int32) % 3}

    def run(loaded, dtype):
        """Features and logits, and what a step of 1 against the gradient makes of the float32 weights."""
        step = jtl.make_step(objective, optax.sgd(1.0), dtype=dtype)

        def both(variables):
            features, logits, _ = forward(loaded.network, train=False)(variables, x, None)
            state, metrics = step(step.init(wide.variables, jax.random.key(0)), batch)
            return (features, logits), state.params, metrics["loss"]

        return jax.jit(both, compiler_options=QUICKLY)(loaded.variables)

    (outputs, params, near), (fine, wanted, loss) = run(low, jnp.bfloat16), run(wide, jnp.float32)
    assert {a.dtype for a in jax.tree.leaves(outputs)} == {jnp.dtype(jnp.bfloat16)}
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    for found, exact in zip(jax.tree.leaves(outputs), jax.tree.leaves(fine), strict=True):
        assert apart(np.asarray(found, np.float32), exact) < 0.03
    assert abs(near - loss) < 0.03 * abs(loss)
    rough, exact = (
        np.concatenate(
            [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (p, wide.variables.params)), strict=True)]
        )
        for p in (params, wanted)
    )
    assert apart(rough, exact) < 0.1


def apart(found, exact):
    """The length of the difference, relative."""
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)
