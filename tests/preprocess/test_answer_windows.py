"""Windows of questions and texts against transformers."""

import json

import numpy as np
import pytest

from jtl.preprocess import squad, text
from jtl.preprocess.answer_windows import answer_windows
from jtl.preprocess.squad import Question

LONG = "The river rises in the north. " * 6 + "It ends in Lake Vanern, far away. " + "Nobody fishes there. " * 5
LENGTH, STRIDE = 32, 8


@pytest.fixture
def folder(real_data, tmp_path):
    vocabulary = real_data("text/bert-base-uncased-vocab.txt")
    (tmp_path / "vocab.txt").write_text(vocabulary.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def questions():
    return [
        Question("a", "Where does it end?", LONG, ("Lake Vanern",), (LONG.index("Lake"),)),
        Question("b", "Who fishes?", "Nobody fishes there.", ("Nobody", "No one"), (0, 0)),
        Question("c", "Why?", "It is not said.", (), ()),
    ]


def test_windows_are_transformers(folder):
    transformers = pytest.importorskip("transformers")
    x, _, windows = answer_windows(text.tokenizer(folder, length=LENGTH), questions(), stride=STRIDE)
    theirs = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))(
        [q.question for q in questions()],
        [q.context for q in questions()],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    assert x["ids"].tolist() == theirs["input_ids"]
    assert x["mask"].astype(int).tolist() == theirs["attention_mask"]
    assert x["types"].tolist() == theirs["token_type_ids"]
    assert windows.question.tolist() == theirs["overflow_to_sample_mapping"]
    for row, context in enumerate(windows.context):
        assert context.tolist() == [part == 1 for part in theirs.sequence_ids(row)]
        assert windows.offsets[row].tolist() == [list(pair) for pair in theirs["offset_mapping"][row]]
    assert len(windows.question) > 4  # the long text comes in several


def test_labels_mark_the_answer_wherever_all_of_it_is_there(folder):
    x, y, windows = answer_windows(text.tokenizer(folder, length=LENGTH), questions(), stride=STRIDE)
    seen = 0
    for row, number in enumerate(windows.question):
        start, end = y["start"][row], y["end"][row]
        assert y["allowed"][row, [start, end]].all()
        one = questions()[number]
        first, last = windows.offsets[row, start, 0], windows.offsets[row, end, 1]
        offsets = windows.offsets[row][windows.context[row]]
        there = bool(one.answers) and offsets[0, 0] <= one.starts[0]
        there = there and offsets[-1, 1] >= one.starts[0] + len(one.answers[0])
        assert (one.context[first:last] == one.answers[0]) if there else (start == end == 0)
        seen += there
    assert 2 <= seen < len(windows.question) - 1
    np.testing.assert_array_equal(y["allowed"], windows.context | (np.arange(LENGTH)[None] == 0))
    assert x["mask"][y["allowed"]].all()


def test_a_window_without_room_and_no_questions_are_refused(folder):
    tokenizer = text.tokenizer(folder, length=12)
    with pytest.raises(ValueError, match=r"length=12: the longest question has 5 tokens, .* stride=8 leave no room"):
        answer_windows(tokenizer, questions(), stride=8)
    with pytest.raises(ValueError, match="give at least one"):
        answer_windows(tokenizer, [])


def test_the_tokenizer_stays_as_it_was(folder):
    tokenizer = text.tokenizer(folder, length=LENGTH)
    before = tokenizer([LONG])
    answer_windows(tokenizer, questions(), stride=STRIDE)
    np.testing.assert_array_equal(tokenizer([LONG])["ids"], before["ids"])


def test_files_of_questions_are_read_and_checked(tmp_path, real_data):
    found = squad.read(real_data("text/xquad/xquad.en.json"))
    assert len(found) == 1190
    assert all(q.context[q.starts[0] :].startswith(q.answers[0]) for q in found)
    path = tmp_path / "bad.json"
    asked = {"id": "q", "question": "?", "answers": [{"text": "x", "answer_start": 2}]}
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "abc", "qas": [asked]}]}]}))
    with pytest.raises(ValueError, match="question 'q': 'x' does not stand at character 2"):
        squad.read(path)
