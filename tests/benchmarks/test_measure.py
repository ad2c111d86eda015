"""Timing is interleaved, and what a program costs is what its formula says."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import measure


def test_programs_take_turns():
    calls = []
    programs = {name: lambda n, name=name: calls.append((name, n)) for name in ("a", "b")}
    timing = measure.interleaved(programs, pairs=3, seconds=0.0)
    assert calls == [(name, 1) for name in "ababbaab"], "one call to learn the speed, then turns"
    assert {name: len(taken) for name, taken in timing.seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_taken_pair_by_pair():
    # A machine that is twice as slow in the second sample does not change a ratio of samples side by side.
    timing = measure.Timing({"a": [1.0, 2.0, 1.0], "b": [2.0, 4.0, 2.0]})
    assert timing.ratio("a", "b") == (0.5, 0.5, 0.5)
    assert timing.median("b") == 2.0
    assert measure.Timing({"a": [1.0], "b": [4.0]}).ratio("a", "b") == (0.25, 0.25, 0.25)


def test_a_product_costs_two_flops_a_term():
    m, k, n = 16, 32, 8
    program = measure.compiled(jax.jit(jnp.dot), jnp.ones((m, k)), jnp.ones((k, n)))
    assert program.flops == pytest.approx(2 * m * k * n, rel=0.01)
    assert program.memory_bytes >= 4 * (m * k + k * n + m * n)
    assert program.compile_seconds > 0


def test_a_chain_trains_on():
    steps = measure.chain(lambda state, batch: (state + batch, {"loss": state}), jnp.float32(1), jnp.float32(2))
    assert [float(steps(1)["loss"]), float(steps(2)["loss"])] == [1.0, 5.0]


def test_a_cpu_has_no_known_peak():
    assert measure.peak_flops() is None
    assert measure.peak_bytes() is None
