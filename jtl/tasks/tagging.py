"""Tagging of each word of a sentence: named entities, parts of speech."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl import heads, losses, metrics
from jtl.data.pipeline import distinct
from jtl.heads import Reads
from jtl.reads import whole
from jtl.tasks.task import Task

IGNORE = -100
"""The label of tokens that have none: continuations of words, special tokens, padding."""


def tagging(
    tags: Sequence[str],
    *,
    dropout: float = 0.0,
    reads: Reads = whole("last"),
) -> Task:
    """Makes a tagging task: softmax cross-entropy, `−mean_i log p_i(y_i)`, over every token i that has a tag.

    Inputs and labels come from `jtl.preprocess.words.words` and `word_labels`: the first token of a word has the word's
    tag, and the others have -100.

    Args:
      tags: the names of the tags, such as "O", "B-person", "I-person"; a token's label is the index of its tag. By
        these names a network with this head matches the labels of data.
      dropout: the dropout rate of the features in training.
      reads: the features that the head reads, [batch, tokens, dim].

    Returns:
      A task with labels y [batch, tokens], metric "accuracy" of tags and, if the tags mark entities (B-, I-), "entity"
      with `precision`, `recall` and `f1` of whole entities. `decode(output, words)` returns for each row the tags of
      its words, where `words` [rows, tokens] holds the index of the word that begins at a token, or -1. A word without
      a token, for example if the tokenizer drops all its characters, gets "O", or the first tag if there is no "O".

    Raises:
      ValueError: for a duplicate tag.
      TypeError: for a single string instead of names.

    Example:
      >>> import numpy as np, jtl
      >>> task = jtl.tasks.tagging(("O", "B-city", "I-city"))
      >>> output = np.eye(3)[np.array([[0, 1, 0, 2]])]
      >>> task.decode(output, np.array([[-1, 0, -1, 1]]))
      [['B-city', 'I-city']]

    Ramshaw and Marcus, Text Chunking using Transformation-Based Learning, 1995, arXiv cmp-lg/9505040.
    """
    names = distinct(tags)
    outside = names.index("O") if "O" in names else 0

    def decode(output: Any, words: Any) -> list[list[str]]:
        found = np.asarray(output).argmax(-1)
        rows = []
        for tag, word in zip(found, np.asarray(words), strict=True):
            row = np.full(word.max(initial=-1) + 1, outside)
            row[word[word >= 0]] = tag[word >= 0]
            rows.append([names[i] for i in row])
        return rows

    judged: dict[str, Any] = {"accuracy": metrics.accuracy}
    if any(name.startswith(("B-", "I-")) for name in names):
        judged["entity"] = metrics.entity_f1(names)
    head = heads.per_position(len(names), dropout=dropout, reads=reads)._replace(classes=names)
    return Task(head, losses.cross_entropy, judged, decode, IGNORE)
