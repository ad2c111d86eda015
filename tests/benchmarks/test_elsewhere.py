"""What a compiled program moves, counted by hand, and the script's rows for devices that are here."""

import jax
import jax.numpy as jnp

from benchmarks import elsewhere, tables
from benchmarks.setups import Cell


def test_sizes_are_those_of_shapes():
    assert elsewhere.size("f32[2,3]{1,0}") == 24
    assert elsewhere.size("(bf16[4]{0}, pred[5]{0}, s64[]{:T(128)})") == 8 + 5 + 8


def test_traffic_is_what_operations_take_and_make():
    """One product of [16, 32] and [32, 8]: both operands are read once, and what comes out is written."""
    text = jax.jit(jnp.dot).lower(jnp.ones((16, 32)), jnp.ones((32, 8))).compile().as_text()
    moved, operations = elsewhere.traffic(text)
    assert operations == 1
    assert moved == 4 * (16 * 32 + 32 * 8 + 16 * 8)


def test_a_row_is_of_one_device_and_its_part_of_the_batch():
    cell = Cell("finetune", "mlp", 16, 8)
    (one, eight) = (elsewhere.row("mlp", cell, jax.devices()[:n]) for n in (1, 8))
    assert one["collectives"] == {}
    assert eight["collectives"]["all-reduce"] >= 1
    weights = 64 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    assert one["model_flops"] == eight["model_flops"] == 3 * 2 * 16 * (64 * 512 + 512 * 512)
    for row in (one, eight):  # parameters and both moments of AdamW, 16 images and their labels, and a few scalars
        assert 0 <= row["argument_bytes"] - 4 * (3 * weights + 16 * 64 + 16) < 100
        assert row["traffic_bytes"] > row["argument_bytes"]
    where = {"command": "x", "device": "y", "cores": 2, "jax": "", "python": "", "date": "2026-01-01", "load": [0.0]}
    page = tables.render({"benchmark": "elsewhere", "environment": where | {"target": "z"}, "rows": [one, eight]})
    assert "for z, compiled on y" in page
    assert f"| {eight['temporary_bytes'] / 1e9:.2f} " in page
