"""How often a test's code does something: reads a batch."""

from collections import Counter
from typing import Any


class Counted:
    """A data set that counts in `reads` how often each of its batches is made."""

    def __init__(self, data: Any):
        self.data, self.reads = data, Counter()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, step: int) -> Any:
        self.reads[step] += 1
        return self.data[step]
