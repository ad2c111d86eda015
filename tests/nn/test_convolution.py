"""Every form of a convolution is lax's, and so are its derivatives; and a gradient does no more than it must."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import same_to_second_order
from jax import lax

from jtl.nn.convolution import convolution
from jtl.nn.grouped import blocks_of_groups
from jtl.nn.layers import Dense

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))
# Size of the map, sides of the kernel, its inputs, its features, stride, borders; of 4 channels.
CASES = {
    "3x3": ((9, 10), (3, 3), 4, 5, 1, ONE),
    "3x3, on a small map": ((4, 5), (3, 3), 4, 5, 1, ONE),
    "3x3, by 2": ((7, 6), (3, 3), 4, 5, 2, ONE),
    "no square, on one side": ((6, 5), (1, 3), 4, 3, 1, ((0, 0), (2, 0))),
    "1x1": ((5, 4), (1, 1), 4, 3, 1, NONE),
    "1x1, by 2": ((5, 4), (1, 1), 4, 3, 2, NONE),
    "1x1, with a border": ((3, 3), (1, 1), 4, 3, 1, ONE),
    "tiles, whole": ((8, 4), (4, 4), 4, 3, 4, NONE),
    "tiles, with a remainder": ((9, 7), (4, 4), 4, 3, 4, NONE),
    "depthwise": ((6, 5), (5, 5), 1, 4, 1, ((2, 2), (2, 2))),
    "depthwise, by 2": ((6, 5), (3, 3), 1, 4, 2, ((0, 1), (1, 0))),
    "depthwise, wide borders": ((4, 5), (3, 2), 1, 4, 1, ((3, 2), (0, 4))),
    "depthwise, no borders, by 3": ((9, 10), (2, 3), 1, 4, 3, NONE),
    "depthwise, two features a channel": ((6, 5), (3, 3), 1, 8, 1, ONE),
    "two groups": ((6, 5), (3, 3), 2, 6, 1, ONE),
    "two groups, by 2": ((7, 4), (3, 3), 2, 4, 2, ((0, 1), (1, 0))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_lax_and_so_do_its_derivatives(case):
    size, sides, inputs, features, stride, borders = case

    def reference(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            borders,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4 // inputs,
        )

    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 4)), rng.normal(size=(*sides, inputs, features))
    same_to_second_order(lambda x, k: convolution(x, k, stride, borders), reference, x, kernel)


@pytest.mark.parametrize(
    ("stride", "inputs", "blocks"), [(1, 8, 2), (2, 24, 9)], ids=["blocks by themselves", "all in one product"]
)
def test_many_groups_on_a_cpu_are_laxs(stride, inputs, blocks):
    """Groups in blocks of several, and groups of which each is a block."""
    groups = {8: 8, 24: 9}[inputs]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 4, 3, groups * inputs)), rng.normal(size=(3, 2, inputs, groups * 2))
    assert len(blocks_of_groups(jnp.asarray(kernel), x.shape[-1])) == blocks
    borders = ((1, 1), (0, 1))

    def reference(x, kernel):
        parts = zip(np.split(np.arange(x.shape[-1]), groups), np.split(np.arange(groups * 2), groups), strict=True)
        made = [
            lax.conv_general_dilated(
                x[..., i], kernel[..., o], (stride, stride), borders, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            for i, o in parts
        ]
        return jnp.concatenate(made, -1)

    same_to_second_order(lambda x, k: convolution(x, k, stride, borders), reference, x, kernel)


def flops(f, *shapes):
    cost = jax.jit(f).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile().cost_analysis()
    return cost["flops"]


def test_what_has_no_gradient_costs_nothing():
    """The first layer's images, or a frozen kernel: a derivative along zeros would be one more convolution."""
    x, kernel = (2, 12, 12, 8), (3, 3, 8, 16)

    def run(x, k):
        return jnp.tanh(convolution(x, k, 1, ONE)).sum()

    once = flops(run, x, kernel)
    both, kernels, images = (flops(jax.grad(run, by), x, kernel) for by in ((0, 1), 1, 0))
    assert 2.8 * once < both < 3.2 * once
    assert 1.9 * once < kernels < 2.2 * once
    assert 1.9 * once < images < 2.2 * once


@pytest.mark.parametrize(("sides", "stride"), [(3, 1), (3, 2), (5, 1)])
def test_for_the_gradient_the_map_is_kept_once(sides, stride):
    """Its slices, one for each place in the kernel, are taken again: kept, they were half of a train step's memory."""
    x, kernel = jnp.ones((2, 16, 16, 8)), jnp.ones((sides, sides, 8, 8))
    border = (sides // 2, sides // 2)
    _, pullback = jax.vjp(lambda x, k: convolution(x, k, stride, (border, border)), x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(pullback)) < x.size + 2 * kernel.size + 10


@pytest.mark.parametrize(
    ("sides", "inputs", "stride"),
    [((3, 3), 4, 1), ((5, 5), 1, 1), ((3, 3), 2, 1), ((1, 1), 4, 2)],
    ids=["plain", "depthwise", "grouped", "thinned"],
)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_it_is_one_convolution_each_way(platform, sides, inputs, stride):
    borders = tuple((side // 2, side // 2) for side in sides)
    gradient = jax.jit(jax.grad(lambda x, k: jnp.tanh(convolution(x, k, stride, borders)).sum(), (0, 1)))
    given = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 12, 12, 4), (*sides, inputs, 4)))
    program = gradient.trace(*given).lower(lowering_platforms=(platform,)).as_text()
    assert program.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in program


@pytest.mark.parametrize(("sides", "inputs"), [((3, 3), 4), ((5, 5), 1)], ids=["plain", "depthwise"])
def test_a_gpu_machine_does_not_trace_what_is_for_cpus(monkeypatch, sides, inputs):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    borders = tuple((side // 2, side // 2) for side in sides)
    gradient = jax.grad(lambda x, k: jnp.tanh(convolution(x, k, 1, borders)).sum(), (0, 1))
    size = (2, 7, 11, 4)  # of no other test: a trace is kept
    program = str(jax.make_jaxpr(gradient)(jnp.ones(size), jnp.ones((*sides, inputs, 4))))
    assert program.count("conv_general_dilated[") == 3
    assert "cond[" not in program


@pytest.mark.parametrize("inputs", [4, 1], ids=["plain", "depthwise"])
def test_layers_that_are_alike_are_lowered_once(inputs):
    x, kernel = jax.ShapeDtypeStruct((2, 6, 6, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, inputs, 4), jnp.float32)

    def taps(layers):
        def run(x, kernels):
            return reduce(lambda x, k: jnp.tanh(convolution(x, k, 1, ONE)), kernels, x).sum()

        program = jax.jit(jax.grad(run, (0, 1))).lower(x, [kernel] * layers).as_text()
        return program.count("stablehlo.slice") + program.count("stablehlo.pad")  # what the forms for a CPU are made of

    assert taps(3) == taps(6) > 9


def test_the_gradient_of_a_dense_layer_copies_nothing():
    """Of `[batch, tokens, width] @ [width, out]`, XLA's CPU backend transposes the cotangents before the product."""
    dense = Dense(24)
    x = jnp.ones((3, 10, 16))
    variables = dense.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda v, x: jnp.sin(dense.apply(v, x)).sum(), (0, 1)))
    program = gradient.lower(variables, x).compile().as_text()
    assert " dot(" in program
    assert " transpose(" not in program
    assert " copy(" not in program
    plain = jax.grad(lambda k, b, x: jnp.sin(x @ k + b.reshape(1, 1, -1)).sum(), (0, 1, 2))
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    found, wanted = gradient(variables, x), plain(kernel, bias, x)
    for got, expected in zip((*(found[0]["params"][n] for n in ("kernel", "bias")), found[1]), wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
