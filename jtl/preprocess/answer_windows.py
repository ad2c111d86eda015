"""Turns questions and texts into windows of tokens, for extractive question answering."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.preprocess.squad import Question
from jtl.preprocess.text import Tokenizer, uncut


class Windows(NamedTuple):
    """The data of each window that decoding needs.

    Args:
      question: int [windows], the index of the question.
      context: bool [windows, tokens], the tokens of the text.
      offsets: int [windows, tokens, 2], where each token begins and ends in the text, in characters.
      cls: int [windows], the position of the first token, which stands for "no answer".
      contexts: the text of each question.
    """

    question: np.ndarray
    context: np.ndarray
    offsets: np.ndarray
    cls: np.ndarray
    contexts: tuple[str, ...]


def answer_windows(
    tokenizer: Tokenizer, questions: Sequence[Question], *, stride: int = 64
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Windows]:
    r"""Pairs each question with its text; a text that is too long is split into overlapping windows.

    The label is a question's first answer. A window that does not hold all of it, or belongs to a question without
    answers, is labelled with the first token, [CLS].

    Args:
      tokenizer: from `jtl.preprocess.text.tokenizer`; its length is the length of a window.
      questions: from `jtl.preprocess.squad.read`.
      stride: how many tokens of the text a window shares with the previous one.

    Returns:
      (x, y, windows): the input of a text backbone; `{"start", "end", "allowed"}`, the labels of `jtl.tasks.qa`, where
      `allowed` marks the text's tokens and [CLS]; and the data for decoding.

    Raises:
      ValueError: for no questions, a tokenizer with a prompt, or a window that has no room for the text next to the
        longest question and the stride.

    Example:
      >>> import pathlib, tempfile
      >>> from jtl.preprocess import answer_windows, squad, text
      >>> file = pathlib.Path(tempfile.mkdtemp(), "vocab.txt")
      >>> size = file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nan\nant\n##s")
      >>> one = squad.Question("a", "an", "ant ants an", ("an",), (9,))
      >>> x, y, windows = answer_windows.answer_windows(text.tokenizer(file, length=8), [one], stride=1)
      >>> y["start"].tolist(), y["end"].tolist()
      ([6], [6])

    Devlin et al., BERT, 2018, arXiv 1810.04805 (windows: in its published code).
    """
    if not questions:
        raise ValueError("questions=[]: give at least one")
    if tokenizer.prompt.text:
        raise ValueError(f"the tokenizer has the prompt {tokenizer.prompt.text!r}: make it with prompt=''")
    # A copy, because truncation is a state of the backend, and the tokenizer must keep its own.
    backend = uncut(tokenizer.backend)
    special = backend.num_special_tokens_to_add(True)
    longest = max(len(e.ids) for e in backend.encode_batch([q.question for q in questions], add_special_tokens=False))
    if tokenizer.length - special - longest <= stride:
        raise ValueError(
            f"length={tokenizer.length}: the longest question has {longest} tokens, which with {special} special ones"
            f" and stride={stride} leave no room for the text; give a longer window or a smaller stride"
        )
    backend.enable_truncation(tokenizer.length, stride=stride, strategy="only_second")
    backend.enable_padding(**{**tokenizer.backend.padding, "length": tokenizer.length})
    encoded = backend.encode_batch([(q.question, q.context) for q in questions])
    numbered = [(i, e) for i, first in enumerate(encoded) for e in (first, *first.overflowing)]
    rows = [_row(questions[i], e) for i, e in numbered]
    mask = np.array([e.attention_mask for _, e in numbered], bool)
    x = {
        "ids": np.array([e.ids for _, e in numbered], np.int32),
        "mask": mask,
        "types": tokenizer.types([e for _, e in numbered]),
    }
    context = np.array([row[0] for row in rows])
    cls = mask.argmax(1).astype(np.int32)
    y = {
        "start": np.array([c if row[2] is None else row[2][0] for c, row in zip(cls, rows, strict=True)], np.int32),
        "end": np.array([c if row[2] is None else row[2][1] for c, row in zip(cls, rows, strict=True)], np.int32),
        "allowed": context | (np.arange(tokenizer.length)[None] == cls[:, None]),
    }
    numbers = np.array([i for i, _ in numbered], np.int32)
    return x, y, Windows(numbers, context, np.array([row[1] for row in rows]), cls, tuple(q.context for q in questions))


def _row(question: Question, encoding: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, int] | None]:
    """Returns which tokens are of the text, their offsets, and the answer's tokens if the window holds all of it."""
    context = np.array([part == 1 for part in encoding.sequence_ids])
    offsets = np.array(encoding.offsets, np.int32)
    if not question.answers:
        return context, offsets, None
    first, last = question.starts[0], question.starts[0] + len(question.answers[0])
    inside = np.flatnonzero(context & (offsets[:, 0] < last) & (offsets[:, 1] > first))
    if not len(inside) or offsets[inside[0], 0] > first or offsets[inside[-1], 1] < last:
        return context, offsets, None
    return context, offsets, (int(inside[0]), int(inside[-1]))
