"""The script runs from its command line, and the table says what the JSON says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import step_throughput, tables

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--backbones", "mlp", "--batch", "2", "--size", "8", "--pairs", "2", "--seconds", "0.001"]


@pytest.mark.slow
@pytest.mark.compiling
def test_every_family_gives_a_row(tmp_path, capsys):
    out = tmp_path / "rows.json"
    step_throughput.main(["step_throughput.py", *TINY, "--json", str(out)])
    results = json.loads(out.read_text())
    assert [row["family"] for row in results["rows"]] == ["finetune", "features", "dann", "maml"]
    for row in results["rows"]:
        assert row["examples_per_second"] == pytest.approx(row["examples"] * row["steps_per_second"])
        assert len(row["step_seconds"]["jtl"]) == len(row["step_seconds"]["handwritten"]) == 2
        assert row["mfu"] is None, "a CPU has no known peak"
        # The bar on work done: what jtl adds is bookkeeping, beside which these networks are tiny.
        assert row["flops"]["jtl"] <= 1.02 * row["flops"]["handwritten"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    page = out.with_suffix(".md").read_text()
    assert page == tables.render(results)
    for row in results["rows"]:
        assert f"{row['share']:.3f} (" in page
        assert f"{row['steps_per_second']:.3g}" in page


@pytest.mark.slow
@pytest.mark.compiling
def test_isolated_cells_are_put_together(tmp_path):
    out = tmp_path / "rows.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "step_throughput.py"), *TINY]
    command = [*script, "--families", "features", "--isolate", "--json", str(out)]
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=300)
    results = json.loads(out.read_text())
    assert [row["family"] for row in results["rows"]] == ["features"]
    assert results["environment"]["backend"] == "cpu"
    assert "--isolate" in results["environment"]["command"]


def test_results_that_are_kept_have_their_table():
    kept = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    for path in kept:
        results = json.loads(path.read_text())
        if results.get("benchmark") in ("step_throughput", "against_torch"):
            assert path.with_suffix(".md").read_text() == tables.render(results), path.name
