"""Files of tagged sentences: a word and its tag a line, an empty line between sentences."""

from pathlib import Path

from jtl.paths import local

DOCUMENT = "-DOCSTART-"
"""What begins the line before a document's sentences, as CoNLL 2003 has it."""


def read(path: str | Path) -> tuple[list[list[str]], list[list[str]]]:
    r"""Words and tags of the sentences of a file in CoNLL columns; lines between documents are no sentences.

    Args:
      path: of a UTF-8 file. The first column, before a tab or a space, is the word, the last one the tag.

    Returns:
      (words, tags), a list for each sentence.

    Raises:
      FileNotFoundError: no file is there.
      ValueError: for a line of one column, by its number.

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
