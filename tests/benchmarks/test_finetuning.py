"""The benchmarks of fine-tuning and of ranking: what is trained from where, and the order of scores."""

import numpy as np
import pytest

import jtl
from benchmarks import method_tables, ranking
from benchmarks.finetuning import Runner
from benchmarks.finetuning_tasks import Draw, Way

ROWS = [
    {"data": of, "network": name, "tuned": tuned, "probe": probe, **dict.fromkeys(("h_score", "transrate"), score)}
    | {"logme": score, "nce": None if name == "c" else score, "leep": None if name == "c" else score}
    for of, best in (("one", 0.7), ("two", 0.8))
    for name, tuned, probe, score in (("a", 0.5, 0.4, 1.0), ("b", best, 0.6, 3.0), ("c", 0.8, 0.5, 2.0))
]


def test_a_draw_puts_its_backbone_below_the_adapters_and_heads_of_a_way():
    net = jtl.network(backbone=jtl.backbones.mlp((2,)), head=jtl.heads.linear(2))
    old = {"stage1": {"kernel": np.zeros(1)}}
    start = jtl.Variables({"backbone": {**old, "adapter": {"a": np.ones(1)}}, "head": {"b": np.ones(1)}}, {})
    known = jtl.Variables({"stage1": {"kernel": np.full(1, 7.0)}}, {"stage1": {"mean": np.ones(1)}})
    draw = Draw({}, (None, np.zeros(0)), known)
    way = Way(net, start, jtl.finetune(net), ())
    made = Runner.started(way, draw)
    assert {path: float(leaf[0]) for path, leaf in jtl.flatten(made.params).items()} == {
        "backbone/stage1/kernel": 7.0, "backbone/adapter/a": 1.0, "head/b": 1.0,
    }  # fmt: skip
    assert made.stats == {"backbone": known.stats}
    empty = way._replace(start=jtl.Variables({}, {}))
    assert Runner.started(empty, draw).params == {}
    assert Runner.started(way, draw._replace(known=None)) is start


def test_taus_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    for _ in range(20):
        a, b = draw.integers(0, 4, 6).tolist(), draw.integers(0, 4, 6).tolist()
        expected = stats.kendalltau(a, b).statistic
        assert method_tables.tau(a, b) == pytest.approx(0.0 if np.isnan(expected) else expected)


def test_the_table_of_ranks_is_of_data_that_all_networks_have():
    more = [*ROWS, {**ROWS[0], "data": "three"}]
    found = method_tables.METHODS["ranking"](more)
    assert isinstance(found, list)
    scores, accuracies = found
    assert "mean of 2 data sets" in scores.title
    rows = {row[0]: row[1:] for row in scores.rows}
    # "one": a < c < b by LogME and a < b < c when tuned, one of three pairs is turned; "two": a < b = c when tuned.
    assert rows["logme"][1].startswith(f"{(1 / 3 + 2 / 6**0.5) / 2:+.2f} ±")
    assert rows["logme"][4].startswith("-5.0 ±")
    assert rows["leep"][0] == "2"
    assert rows["leep"][1].startswith("+1.00")
    renamed = [{**row, "network": "random_a" if row["network"] == "a" else row["network"]} for row in ROWS]
    among = method_tables.METHODS["ranking"](renamed)
    assert isinstance(among, list)
    # Of b and c alone: turned in "one", no order to predict in "two".
    assert {row[0]: row for row in among[0].rows}["logme"][3].startswith("-0.50 ±")
    assert [row[0] for row in accuracies.rows] == ["one", "two"]
    assert accuracies.rows[0][1:] == ("50.0 (3)", "70.0 (1)", "80.0 (2)")


def test_the_probe_of_standardised_features_is_a_map_of_features_as_they_are():
    linear = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(1)
    y, held = np.arange(40) % 3, np.arange(30) % 3
    f, more = ((draw.normal(size=(len(of), 5)) + 2 * np.eye(5)[of]) * [1, 10, 100, 1, 1] + 3 for of in (y, held))
    f, more = f.astype(np.float32), more.astype(np.float32)
    accuracy, fit = ranking.probed(f, y, more, held, 1.0)
    mean, std = f.mean(0), np.sqrt(f.var(0) + 1e-3 * f.var(0).mean())
    theirs = linear.LogisticRegression(C=1.0, max_iter=2000).fit((f - mean) / std, y)
    assert accuracy == pytest.approx(theirs.score((more - mean) / std, held))
    z = more @ fit.kernel + fit.bias
    assert (z.argmax(1) == theirs.predict((more - mean) / std)).mean() > 0.96


def test_chosen_rows_are_of_each_class_and_apart():
    labels = np.repeat([0, 1, 2], [4, 2, 9])
    rng = np.random.default_rng(0)
    first = ranking.some(labels, 3, rng)
    assert np.bincount(labels[first]).tolist() == [3, 2, 3]
    second = ranking.some(labels, 3, rng, first)
    assert np.bincount(labels[second], minlength=3).tolist() == [1, 0, 3]
    assert not set(first) & set(second)
