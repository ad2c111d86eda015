"""The benchmark of heads from few examples, on features whose answer is known."""

import json

import numpy as np
import pytest

from benchmarks import few, few_tuned, tables


def test_heads_are_judged_on_other_rows_than_they_see(monkeypatch):
    """Directions by class are told apart; rows are numbered by a feature that no head may have seen in both parts."""
    y = np.repeat(np.arange(4), 6)
    z = np.concatenate([10 * np.eye(4)[y], np.arange(24)[:, None] / 1000], axis=1).astype(np.float32)

    def checked(x, labels, way, query):
        assert not set(x[:, 4].tolist()) & set(query[:, 4].tolist())
        assert (len(x), len(query)) == (6, 9)
        return few.cosine(x, labels, way, query)

    monkeypatch.setattr(few, "HEADS", {"cosine": checked})
    found = few.episodes(z, y, np.zeros(24, bool), way=3, shot=2, query=3, count=4)
    np.testing.assert_array_equal(found["cosine"], 1.0)


def test_heads_agree_where_all_features_have_one_norm():
    pytest.importorskip("sklearn")
    draw = np.random.default_rng(0)
    z, y = np.eye(3, 8)[np.repeat(np.arange(3), 4)] + draw.normal(size=(12, 8)) / 20, np.repeat(np.arange(3), 4)
    query = np.eye(3, 8)[[2, 0, 1]]
    for head in few.HEADS.values():
        assert head(z.astype(np.float32), y, 3, query.astype(np.float32)).argmax(1).tolist() == [2, 0, 1]


def test_held_rows_are_those_that_are_judged_and_the_table_has_them(monkeypatch):
    y, held = np.tile([0, 1], 5), np.arange(10) >= 6
    z = np.where(held, 1.0, -1.0)[:, None] * np.eye(2)[y]  # support and query have opposite signs: all wrong
    monkeypatch.setattr(few, "HEADS", {"cosine": few.cosine})
    found = few.episodes(z, y, held, way=2, shot=3, query=0, count=2)
    np.testing.assert_array_equal(found["cosine"], 0.0)
    where = {"command": "", "device": "", "cores": 2, "jax": "", "python": "", "date": "2026-01-01", "load": [0]}
    row = {"data": "d", "way": 2, "shot": 3, "head": "cosine", "accuracy": 12.34, "interval": 0.56}
    assert "12.3 ± 0.6" in tables.render({"benchmark": "few", "environment": where, "rows": [row]})


def test_gains_are_paired_and_supports_are_drawn_apart_from_what_is_judged(tmp_path):
    from scipy.stats import ttest_rel

    pairs = [[80.0, 82.0], [90.0, 89.0], [70.0, 76.0]]
    found = few_tuned.gain(pairs)
    low, high = ttest_rel(*np.array(pairs)[:, ::-1].T).confidence_interval()
    np.testing.assert_allclose([found["gain"] - found["interval"], found["gain"] + found["interval"]], [low, high])
    for name in "abc":
        (tmp_path / name).mkdir()
        for i in range(9):
            (tmp_path / name / f"{i}.jpg").touch()
    support, judged = few_tuned.draw(tmp_path, None, 2, 3, seed=1)
    assert [len(files) for files in support.values()] == [few_tuned.SHOT] * 2
    assert len(judged) == 6
    assert {name for _, name in judged} == set(support)
    assert not {file for file, _ in judged} & {file for files in support.values() for file in files}
    where = {"command": "", "device": "", "cores": 2, "jax": "", "python": "", "date": "2026-01-01", "load": [0]}
    row = {"data": "d", "way": 2, "shot": 5, "steps": 50, "supports": 3, "each": pairs, **found}
    assert "+2.3 ± 8.7" in tables.render({"benchmark": "few_tuned", "environment": where, "rows": [row]})


def test_rows_of_other_data_are_kept(tmp_path, monkeypatch):
    """Sources by word: those asked for are measured, and their rows alone are replaced."""
    z, y = 10 * np.eye(2)[np.tile([0, 1], 6)], np.tile([0, 1], 6)
    given = (z, y, np.zeros(12, bool))
    monkeypatch.setattr(few, "HEADS", {"cosine": few.cosine})
    monkeypatch.setattr(few, "SOURCES", {name: (name, lambda: given, 2, 1) for name in ("a", "b")})
    out = tmp_path / "rows.json"
    few.main(["--episodes", "3", "--json", str(out)])
    results = json.loads(out.read_text())
    assert [row["data"] for row in results["rows"]] == ["a", "a", "b", "b"]
    for row in results["rows"]:
        assert row["accuracy"] == 100
        row["accuracy"] = 12.0
    out.write_text(json.dumps(results))
    few.main(["--episodes", "3", "--data", "b", "--json", str(out)])
    after = json.loads(out.read_text())["rows"]
    assert [(row["data"], row["accuracy"]) for row in after] == [("a", 12), ("a", 12), ("b", 100), ("b", 100)]
