"""Files of questions, of the right form and of others."""

import json

import pytest

from jtl.preprocess import squad


def written(path, asked, **changes):
    paragraph = {"context": "ab cd", "qas": [asked], **changes}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}), encoding="utf-8")
    return path


def test_a_question_without_answers_has_none(tmp_path):
    path = written(tmp_path / "q.json", {"id": "1", "question": "what?"})
    assert squad.read(path) == [squad.Question("1", "what?", "ab cd", (), ())]
    answers = [{"text": "cd", "answer_start": 3}]
    path = written(tmp_path / "q.json", {"id": "1", "question": "what?", "answers": answers})
    assert squad.read(path) == [squad.Question("1", "what?", "ab cd", ("cd",), (3,))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"q\.json is no JSON file: "),
        ('{"a": 1}', r"q\.json: data='None': give a list"),
        ("[]", r"q\.json: data='None': give a list"),
        ('{"data": ["x"]}', r"q\.json, an article: paragraphs='None': give a list"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"q\.json, a paragraph: context='None': give a text"),
    ],
)
def test_a_file_of_another_form_is_named(text, said, tmp_path):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        squad.read(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"question": "what?"}, "a question: id='None': give a text"),
        ({"id": "1"}, "question '1': question='None': give a text"),
        ({"id": "1", "question": "what?", "answers": {"text": ["ab"]}}, "question '1': answers=.*: give a list"),
        ({"id": "1", "question": "what?", "answers": [{"text": "ab"}]}, "question '1': answer_start='None': give a w"),
        (
            {"id": "1", "question": "what?", "answers": [{"text": "cd", "answer_start": -2}]},
            "question '1': 'cd' does not stand at character -2",
        ),
    ],
)
def test_a_question_of_another_form_is_named(asked, said, tmp_path):
    with pytest.raises(ValueError, match=rf"q\.json, {said}"):
        squad.read(written(tmp_path / "q.json", asked))
