"""Reads files of tagged sentences: one word and its tag per line, and an empty line between sentences."""

from pathlib import Path

from jtl.paths import local

DOCUMENT = "-DOCSTART-"
"""The beginning of the line before a document's sentences, as in CoNLL 2003."""


def read(path: str | Path) -> tuple[list[list[str]], list[list[str]]]:
    r"""Reads the words and tags of each sentence from a file in CoNLL columns; lines between documents are skipped.

    Args:
      path: a UTF-8 file. Columns are separated by tabs or spaces; the first is the word, the last is the tag.

    Returns:
      (words, tags), one list per sentence in each.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a line with one column, naming its number.

    Example:
      >>> import pathlib, tempfile
      >>> from jtl.preprocess import conll
      >>> file = pathlib.Path(tempfile.mkdtemp(), "train.txt")
      >>> size = file.write_text("Ada B-PER\nsings O\n\nNo O\n")
      >>> conll.read(file)
      ([['Ada', 'sings'], ['No']], [['B-PER', 'O'], ['O']])
    """
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(local(path, "path").read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip() or line.startswith(DOCUMENT):
            words.append([])
            tags.append([])
            continue
        columns = line.rstrip().split("\t" if "\t" in line else " ")
        if len(columns) < 2:
            raise ValueError(f"{path}, line {number}: {line[:50]!r} has one column; give a word and a tag")
        words[-1].append(columns[0].strip())
        tags[-1].append(columns[-1].strip())
    return [sentence for sentence in words if sentence], [sentence for sentence in tags if sentence]
