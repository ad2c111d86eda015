"""jtl and torch train the same network alike from the same weights, and the script says how fast each is."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import against_torch, tables
from benchmarks.setups import Cell, build
from benchmarks.torch_nets import carry, network
from benchmarks.torch_steps import Twin

TINY = {"size": 16, "classes": 3, "query": 2, "lr": 1e-3}
FEW = {**TINY, "shot": 5, "query": 5}
CELLS = {
    "DANN": Cell("dann", "mlp", 4, **TINY),
    "CDAN": Cell("cdan", "mlp", 4, **TINY),
    "MMD": Cell("mmd", "mlp", 4, **TINY),
    "MCD": Cell("mcd", "conv4", 8, **{**TINY, "size": 32}),
    "TENT": Cell("tent", "conv4", 8, **{**TINY, "size": 32}),
    "ViT": Cell("finetune", "vit_ti", 4, **{**TINY, "size": 32}),
    "ResNet": Cell("finetune", "resnet18", 4, **TINY),
    # Five images a class: normalising the three 1x1 maps of one a class turns rounding errors into percents.
    "second-order MAML, two steps": Cell(
        "maml", "conv4", 2, inner_steps=2, microbatch=2, **{**TINY, "shot": 5, "query": 5}
    ),
}


DEEP = ("ViT", "ResNet")
SLOW = [pytest.mark.slow, pytest.mark.compiling]


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW if n in DEEP else []) for n in CELLS])
def test_both_libraries_train_alike(name):
    setup = build(CELLS[name])
    twin = Twin(setup, "cpu", channels_last=False)
    run, state = jax.jit(setup.step.update), setup.step.init(setup.variables, jax.random.key(1))
    found, wanted = [], []
    for _ in range(3):
        state, metrics = run(state, setup.batch)
        found.append(float(metrics["loss"]))
        wanted.append(float(twin.step()))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5), "float32 sums in another order"
    # Adam divides a gradient by its own size, so where it is all rounding error the step is too: a hundredth of a
    # step's change in the loss is allowed for it.
    assert abs(wanted[2] - wanted[0]) > 1e-3
    np.testing.assert_allclose(found, wanted, atol=0.01 * abs(wanted[2] - wanted[0]), rtol=1e-5)


def test_the_script_writes_json_and_its_table(tmp_path):
    out = tmp_path / "rows.json"
    tiny = ["--cases", "dann-mlp", "--batch", "2", "--size", "8", "--pairs", "2", "--seconds", "0.001"]
    against_torch.main(["against_torch.py", *tiny, "--json", str(out)])
    results = json.loads(out.read_text())
    (row,) = results["rows"]
    assert row["case"] == "dann-mlp"
    assert results["environment"]["torch"] == torch.__version__
    assert len(row["step_seconds"]["jtl"]) == len(row["step_seconds"]["torch"]) == 2
    assert out.with_suffix(".md").read_text() == tables.render(results)
    assert f"{row['ratio']:.2f} (" in tables.render(results)


def test_a_weight_without_a_place_is_named():
    setup = build(Cell("finetune", "mlp", 2, **TINY))
    params = setup.variables.params
    with pytest.raises(ValueError, match=r"head\.out\.bias"):
        carry({"backbone": params["backbone"], "head": {"out": {"kernel": params["head"]["out"]["kernel"]}}}, {}, net())
    with pytest.raises(ValueError, match=r"no place in the torch network.*extra"):
        carry({**params, "extra": np.zeros(3)}, {}, net())


def net():
    return network("mlp", TINY["size"], TINY["classes"], None)
