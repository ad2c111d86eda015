"""The benchmark of few-shot reviews, on features whose answer is known."""

import json

import numpy as np
import pytest

from benchmarks import few, review_episodes


def test_episodes_are_disjoint_and_sentiment_by_sentiment():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1], 30))
    support, query = review_episodes.episodes(y, 3, 7, seed=0)
    assert (support.shape, query.shape) == ((7, 6), (7, 40))
    for a, b in zip(support, query, strict=True):
        assert len({*a.tolist(), *b.tolist()}) == 46
        np.testing.assert_array_equal(y[a], np.repeat([0, 1], 3))
        np.testing.assert_array_equal(y[b], np.repeat([0, 1], 20))
    assert len({tuple(rows) for rows in support.tolist()}) == 7


def test_parts_are_disjoint_and_together_all():
    known = [(np.arange(10)[:, None] + 100 * i, np.arange(10) % 2) for i in range(2)]
    for i, (fit, held) in enumerate(zip(*review_episodes.halves(known), strict=True)):
        assert (len(fit[1]), len(held[1])) == (8, 2)
        assert {*fit[0][:, 0].tolist(), *held[0][:, 0].tolist()} == set(range(100 * i, 100 * i + 10))
        for x, y in (fit, held):
            np.testing.assert_array_equal(x[:, 0] % 2, y)


def test_a_kind_whose_sentiment_is_turned_round_is_told_by_its_examples_alone(monkeypatch):
    """One direction is the sentiment of all kinds, but in the new one it is turned round."""
    monkeypatch.setattr(review_episodes, "SHOTS", (5,))
    monkeypatch.setattr(review_episodes, "RATES", (1.0,))
    draw, y = np.random.default_rng(0), np.tile([0, 1], 80).astype(np.int32)

    def kind(sign):
        return (draw.normal(size=(160, 8)) / 10 + sign * (2 * y - 1)[:, None]).astype(np.float32), y

    found = review_episodes.judged([kind(1), kind(1)], kind(-1), steps=20, count=8, seed=0)
    assert [way for _, way in found] == list(review_episodes.WAYS)
    for (_, way), value in found.items():
        assert value < 5 if way == "classifier, no examples" else value > 95, way


def test_each_kind_is_the_new_one_once_and_the_table_has_paired_gains(tmp_path, monkeypatch):
    of = {name: (np.full((2, 1), i), np.array([0, 1])) for i, name in enumerate("BDEK")}

    def judged(known, new, steps, count, seed):
        kinds = [int(x[0, 0]) for x, _ in known]
        assert sorted([*kinds, int(new[0][0, 0])]) == [0, 1, 2, 3]
        base = 50.0 + 10 * int(new[0][0, 0])
        gains = {"ProtoNet": 3.0, "ANIL": -1.0}
        return {(s, way): base + gains.get(way, 0) for s in review_episodes.SHOTS for way in review_episodes.WAYS}

    monkeypatch.setattr(review_episodes, "judged", judged)
    path = tmp_path / "found.json"
    review_episodes.main(["--json", str(path)], of)
    each = {(row["shot"], row["head"]): row["each"] for row in json.loads(path.read_text())["rows"]}
    assert each[16, "ProtoNet"] == [53, 63, 73, 83]
    page = path.with_suffix(".md").read_text()
    assert "gain over frozen + logistic regression" in page
    assert page.count("+3.0 ± 0.0") == page.count("-1.0 ± 0.0") == 3
    assert "65.0 ± 20.5" in page, "deviation 12.91 over 4 kinds, and 3.182 of Student's t"


def test_heads_that_are_wrong_are_found_so():
    """Queries of the opposite sign: all wrong by means."""
    y = np.repeat([0, 1], 30)
    z = (2.0 * y - 1)[:, None] * np.ones((1, 4), np.float32)
    support, query = review_episodes.episodes(y, 5, 3, seed=0)
    with pytest.raises(ValueError, match=r"takes 11 \+ 20 reviews of each sentiment, and one has 30"):
        review_episodes.episodes(y, 11, 1, seed=0)
    turned = query[:, ::-1]
    assert review_episodes.by_head(few.distance, z, support, query) == 100
    assert review_episodes.by_head(few.distance, z, support, turned) == 0
