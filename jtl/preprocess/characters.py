"""Converts texts to rows of character numbers, for speech recognition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alphabet:
    """Numbers for characters, from 1 on; 0 is the blank of CTC, and padding.

    Args:
      characters: each character once; its position, counted from 1, is its number.

    Raises:
      ValueError: for no characters, or a character that occurs twice.

    Example:
      >>> from jtl.preprocess.characters import Alphabet
      >>> Alphabet("abn").ids(["ban", "a"]).tolist()
      [[2, 1, 3], [1, 0, 0]]
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise ValueError(f"characters={self.characters!r}: give each once, and at least one")

    def __len__(self) -> int:
        return len(self.characters)

    def ids(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Returns the numbers of the texts' characters, int32 [texts, length], with 0 after the last.

        Args:
          texts: any number of texts.
          length: characters per row; None for the length of the longest text.

        Raises:
          ValueError: for a character that is not in the alphabet, or a text that is too long.
        """
        longest = max(map(len, texts), default=0)
        length = longest if length is None else length
        number = {character: i for i, character in enumerate(self.characters, 1)}
        found = np.zeros((len(texts), length), np.int32)
        for row, text in enumerate(texts):
            unknown = sorted(set(text) - number.keys())
            if unknown:
                raise ValueError(f"texts[{row}] holds {unknown[0]!r}, which is not in the alphabet {self.characters!r}")
            if len(text) > length:
                raise ValueError(f"texts[{row}] has {len(text)} characters; length={length} has no room for them")
            found[row, : len(text)] = [number[character] for character in text]
        return found

    def texts(self, ids: np.ndarray) -> list[str]:
        """Returns the texts of rows of numbers [texts, length]; 0 is skipped."""
        return ["".join(self.characters[i - 1] for i in row if i > 0) for row in np.asarray(ids).tolist()]


def alphabet(texts: Iterable[str]) -> Alphabet:
    """Returns the alphabet of all characters in some texts, in the order of their code points.

    Example:
      >>> from jtl.preprocess.characters import alphabet
      >>> alphabet(["one", "two"]).characters
      'enotw'
    """
    return Alphabet("".join(sorted(set().union(*map(set, texts)))))
