"""A text is read up to 128 tokens, however short the examples are that a network learns from."""

import made
import numpy as np
import pytest

from jtl import cli
from jtl.command import few, inference, tune
from jtl.command.few_settings import FewShot
from jtl.command.settings import Settings

WORDS = ["good", "bad", "film", "a", "the"]
LONG = "a " * 14 + "good film " * 15
"""Above the sixteen tokens to which short texts are padded."""
SHORT = [("good film", "yes"), ("good a", "yes"), ("bad the", "no"), ("bad film", "no")]


def table(path, rows):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return made.of_texts(tmp_path_factory.mktemp("net"), WORDS)


def test_a_query_is_read_as_predict_reads_it(encoder, tmp_path):
    support = table(tmp_path / "support.csv", SHORT)
    given = (LONG, "good film", "good " * 200)
    found = few.run(FewShot(str(encoder), support, given, tmp_path / "run"), lambda line: None)
    then = inference.predict(tmp_path / "run" / "model", given)
    np.testing.assert_allclose(found.shares, then.values, rtol=1e-5)
    said = "1 of 3 texts are longer than 128 tokens: the rest of these is not used"
    assert then.notes == [said]
    assert f"queries: {said}" in found.notes


def test_given_splits_are_scored_as_eval_scores_them(encoder, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    longer = {"train": [], "val": [(LONG + "the", "no")], "test": [(LONG, "yes"), ("the " * 200, "no")]}
    for name, more in longer.items():
        table(data / f"{name}.csv", [(f"{text} {name}", label) for text, label in SHORT] + more)
    tuned = tune.run(Settings(data, str(encoder), tmp_path / "run"), lambda line: None)
    scores, notes = inference.judge(tmp_path / "run" / "model", data)
    np.testing.assert_allclose(tuned.test.shares, scores.shares, rtol=1e-5)
    said = "1 of 6 texts are longer than 128 tokens: the rest of these is not used"
    assert notes == [said]
    assert f"test: {said}" in tuned.notes
    assert cli.main(["eval", str(tmp_path / "run"), str(data)]) == 0
    assert f"note: {said}" in capsys.readouterr().err
    model = str(tmp_path / "run" / "model")
    assert cli.main(["rank", str(data / "test.csv"), model]) == 0
    assert f"note: {model}: {said}" in capsys.readouterr().err
