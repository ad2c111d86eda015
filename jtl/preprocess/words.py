"""Tokenizes sentences given as lists of words, with one label per word."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.preprocess.text import Tokenizer


def words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    r"""Cuts words into tokens, and returns where each word begins.

    Args:
      tokenizer: from `jtl.preprocess.text.tokenizer`.
      sentences: lists of words.

    Returns:
      The input of a text backbone, as the tokenizer returns it, and `words` int32 [sentences, tokens]: the index of the
      word that begins at a token; -1 at other pieces of a word, special tokens and padding. Words that were cut off, or
      consist of characters that the tokenizer drops, begin nowhere.

    Raises:
      TypeError: for a sentence that is a string instead of a list of words.
      ValueError: for a tokenizer that puts a space before each word except the first of a text.

    Example:
      >>> import pathlib, tempfile
      >>> from jtl.preprocess import text, words
      >>> file = pathlib.Path(tempfile.mkdtemp(), "vocab.txt")
      >>> size = file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nan\nant\n##s")
      >>> x, begins = words.words(text.tokenizer(file, length=6), [["an", "ants"]])
      >>> begins.tolist()
      [[-1, 0, 1, -1, -1, -1]]
    """
    for i, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            raise TypeError(f"sentences[{i}] is the string {sentence[:30]!r}; give a list of words")
    # The tokens of GPT-2 and Llama tell the beginning of a word by the space before it, which words alone have not.
    cuts = tokenizer.backend.pre_tokenizer is not None or tokenizer.backend.normalizer is not None
    if cuts and _pieces(tokenizer.backend, "a a") != 2 * _pieces(tokenizer.backend, "a"):
        raise ValueError(
            "this tokenizer would join the words of a sentence, because it puts no space before the first word of a"
            " text: set add_prefix_space to true, in tokenizer_config.json or in tokenizer.json"
        )
    rows = [list(sentence) for sentence in sentences]
    found = tokenizer.backend.encode_batch(rows, is_pretokenized=True)
    shape = (len(rows), tokenizer.length)
    begins = np.full(shape, -1, np.int32)
    for row, encoding in enumerate(found):
        before = None
        for place, word in enumerate(encoding.word_ids):
            if word is not None and word != before:
                begins[row, place] = word
            before = word
    return {
        "ids": np.array([e.ids for e in found], np.int32).reshape(shape),
        "mask": np.array([e.attention_mask for e in found], bool).reshape(shape),
        "types": tokenizer.types(found).reshape(shape),
    }, begins


def _pieces(backend: Any, text: str) -> str:
    """Returns a text as the vocabulary sees it, its pieces joined."""
    text = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    cut = backend.pre_tokenizer
    return text if cut is None else "".join(piece for piece, _ in cut.pre_tokenize_str(text))


def word_labels(begins: np.ndarray, labels: Sequence[Sequence[int]], *, ignore: int = -100) -> np.ndarray:
    """Places the label of each word at the token where the word begins.

    Args:
      begins: the second result of `words`.
      labels: one number for each word of each sentence.
      ignore: the label of all other tokens.

    Returns:
      int32 [sentences, tokens].

    Raises:
      ValueError: if a sentence has fewer labels than words, or the numbers of sentences differ.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess.words import word_labels
      >>> word_labels(np.array([[-1, 0, -1, 1, -1]]), [[4, 7]]).tolist()
      [[-100, 4, -100, 7, -100]]
    """
    if len(labels) != len(begins):
        raise ValueError(f"{len(labels)} rows of labels for {len(begins)} sentences: give one for each")
    found = np.full(begins.shape, ignore, np.int32)
    for row, (word, own) in enumerate(zip(begins, labels, strict=True)):
        if word.max(initial=-1) >= len(own):
            raise ValueError(f"labels[{row}] has {len(own)} labels for {word.max() + 1} words: give one for each")
        there = word >= 0
        found[row, there] = np.asarray(own)[word[there]]
    return found
