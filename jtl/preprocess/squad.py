"""Reads files of questions on texts, in SQuAD's format."""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jtl.paths import local

_Kind = TypeVar("_Kind", list, str, int)


class Question(NamedTuple):
    """A question on a text.

    Args:
      id: the id of the question in its file.
      question: the question itself.
      context: the text that it is about.
      answers: answers, each a part of the context; empty if the context holds no answer.
      starts: where each answer begins in the context, in characters.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


def read(path: str | Path) -> list[Question]:
    """Reads the questions of a file.

    Args:
      path: a JSON file, `{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}`. Questions
        may lack `answers`, as in test files.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file of another form, or an answer that is not at its `answer_start`, naming the file and the
        question.

    Example:
      >>> import json, pathlib, tempfile
      >>> from jtl.preprocess import squad
      >>> answer = {"text": "two", "answer_start": 8}
      >>> text = {"context": "It took two years.", "qas": [{"id": "a", "question": "How many?", "answers": [answer]}]}
      >>> file = pathlib.Path(tempfile.mkdtemp(), "train.json")
      >>> size = file.write_text(json.dumps({"data": [{"paragraphs": [text]}]}))
      >>> squad.read(file)[0].answers
      ('two',)

    Rajpurkar et al., SQuAD, 2016, arXiv 1606.05250.
    """
    file = local(path, "path")
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # wrong JSON or wrong UTF-8
        raise ValueError(f"{path} is no JSON file: {error}") from error
    found = []
    for article in _entry(whole, "data", list, f"{path}"):
        for paragraph in _entry(article, "paragraphs", list, f"{path}, an article"):
            context = _entry(paragraph, "context", str, f"{path}, a paragraph")
            for asked in _entry(paragraph, "qas", list, f"{path}, a paragraph"):
                name = _entry(asked, "id", str, f"{path}, a question")
                where = f"{path}, question {name!r}"
                answers = _entry({"answers": [], **asked}, "answers", list, where)
                texts = tuple(_entry(answer, "text", str, where) for answer in answers)
                starts = tuple(_entry(answer, "answer_start", int, where) for answer in answers)
                for text, start in zip(texts, starts, strict=True):
                    if start < 0 or context[start : start + len(text)] != text:
                        raise ValueError(f"{where}: {text[:50]!r} does not stand at character {start}")
                found.append(Question(name, _entry(asked, "question", str, where), context, texts, starts))
    return found


def _entry(holder: Any, name: str, kind: type[_Kind], where: str) -> _Kind:
    """Returns an entry of an object in the file.

    Raises:
      ValueError: if the entry is missing, or has another type.
    """
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        right = {list: "a list", str: "a text", int: "a whole number"}[kind]
        raise ValueError(f"{where}: {name}={str(value)[:50]!r}: give {right}, as SQuAD's files have it")
    return value
