"""Files of questions on texts, in SQuAD's format."""

import json
from pathlib import Path
from typing import NamedTuple

from jtl.paths import local


class Question(NamedTuple):
    """A question on a text.

    Args:
      id: of the question, in its file.
      question: its text.
      context: the text that it is about.
      answers: texts that answer it, each a part of the context; none where the context holds no answer.
      starts: where each begins in the context, in characters.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


def read(path: str | Path) -> list[Question]:
    """The questions of a file.

    Args:
      path: of a JSON file, `{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}`.

    Raises:
      FileNotFoundError: no file is there.
      ValueError: for an answer that does not stand where it is said to, by the question's id.

    Rajpurkar et al., SQuAD, 2016, arXiv 1606.05250.
    """
    found = []
    for article in json.loads(local(path, "path").read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                texts = tuple(answer["text"] for answer in asked["answers"])
                starts = tuple(answer["answer_start"] for answer in asked["answers"])
                context = paragraph["context"]
                for text, start in zip(texts, starts, strict=True):
                    if context[start : start + len(text)] != text:
                        raise ValueError(
                            f"{path}, question {asked['id']!r}: {text[:50]!r} does not stand at character {start}"
                        )
                found.append(Question(asked["id"], asked["question"], context, texts, starts))
    return found
