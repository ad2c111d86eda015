"""The script compares the same network on both sides, and says how fast each is."""

import json

import pytest

pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from benchmarks import against_transformers, tables


@pytest.mark.slow
@pytest.mark.compiling
def test_the_script_writes_json_and_its_table(tmp_path, monkeypatch):
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    case = against_transformers.CASES["minilm"]
    monkeypatch.setitem(
        against_transformers.CASES, "minilm", case._replace(measures={**case.measures, **small}, batch=(2, 2))
    )
    out = tmp_path / "rows.json"
    words = ["--cases", "minilm", "--pairs", "2", "--seconds", "0.001", "--devices", "2", "--json", str(out)]
    against_transformers.main(["against_transformers.py", *words])
    results = json.loads(out.read_text())
    (row,) = results["rows"]
    assert all(len(row[part]["samples"][side]) == 2 for part in ("forward", "train") for side in ("jtl", "torch"))
    assert len(row["forward"]["samples"]["cut"]) == 2
    assert f"{row['forward']['cut_ratio']:.2f} (" in out.with_suffix(".md").read_text()
    # Of 2 x 64 tokens: four projections and two layers of 8 x 8, two products of attention; and the pooler's.
    products = 2 * 128 * 6 * 8 * 8 + 2 * 2 * 2 * 64 * 64 * 8 + 2 * 2 * 8 * 8
    assert row["forward"]["model_flops"] == products
    assert row["train"]["model_flops"] == 3 * products
    assert row["train"]["flops"] > 2 * row["forward"]["flops"]
    assert f"{row['train']['ratio']:.2f} (" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".md").read_text() == tables.render(results)
