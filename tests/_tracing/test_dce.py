import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from jtl._tracing.dce import pruned
from jtl.backbones import Size, resnet, vit

IMAGE = np.zeros((2, 32, 32, 3), np.float32)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)
        np.testing.assert_array_equal(a, b)


def test_what_no_result_needs_is_not_run():
    ran = []

    def noted(name, x):
        def note(x):
            ran.append(name)
            return x

        return jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def make(x):
        noted("first", noted("second", x))
        return {"sum": noted("third", x.sum()), "constant": 3.0, "given": x}

    x = jnp.arange(3.0)
    found = pruned(make, x)
    assert ran == ["third"]
    same({name: found[name] for name in ("given", "sum")}, {"given": x, "sum": x.sum()})
    assert found["constant"] == 3.0


class Eager(nn.Module):
    """Variables of every origin: drawn, computed of the inputs, given from outside."""

    scale: jax.Array

    @nn.compact
    def __call__(self, x, train: bool):
        mean = self.variable("batch_stats", "mean", lambda: jnp.tanh(x).mean(0, keepdims=True))
        scale = self.param("scale", lambda key: self.scale)
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), (3, 5))
        return nn.Dropout(0.5)(jnp.sin(x - mean.value) * scale @ kernel, deterministic=not train)


def test_a_module_is_initialised_to_the_bit_of_flax(key):
    module = Eager(jnp.asarray([[0.1, 0.2, 0.3]]))
    x = jax.random.normal(key, (4, 3))
    same(pruned(lambda key, x: module.init(key, x, train=False), key, x), module.init(key, x, train=False))


@pytest.mark.parametrize(
    "backbone", [resnet((1, 1), width=8), vit(Size(16, 2, 2, 32), patch=8, image=32)], ids=["resnet", "vit"]
)
def test_backbones_are_initialised_to_the_bit_of_operation_by_operation(backbone, key):
    pruned_ = backbone.init(key, IMAGE)
    traced = jax.make_jaxpr(backbone.init)(key, IMAGE)  # under a trace flax runs as it is
    whole = jaxpr_as_fun(traced)(key, IMAGE)
    same(jax.tree.leaves(pruned_), whole)


def test_under_jit_the_function_is_called_as_it_is(key):
    backbone = resnet((1, 1), width=8)
    made, jitted = backbone.init(key, IMAGE), jax.jit(backbone.init)(key, IMAGE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), made, jitted)


@pytest.mark.parametrize("wrong", ["a text", np.asarray(["a text"])], ids=["text", "array of texts"])
def test_the_function_says_what_is_wrong_with_what_is_no_array(wrong):
    def make(x):
        raise ValueError(f"{type(x).__name__}: give an image")

    with pytest.raises(ValueError, match=r"(str|ndarray): give an image"):
        pruned(make, wrong)
