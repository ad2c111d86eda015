"""A text of a data set changes with any of its examples, and with nothing else."""

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.data import content

X, Y = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20) % 3


def of(x=X, y=Y, **options):
    return jtl.data.arrays(x, y, batch_size=4, **options)


def changed(array, row):
    copy = array.copy()
    copy[row] += 1
    return copy


def words(x):
    """Tokenized texts that `by_length` cuts."""
    return {"ids": x.astype(np.int32), "mask": np.ones(x.shape, bool)}


WAYS = {
    "arrays": lambda x, y: of(x, y),
    "a dict": lambda x, y: of({"a": X, "b": x}, {"start": y}),
    "a subset": lambda x, y: jtl.data.subset(of(x, y), np.arange(19, 2, -1)),
    "balanced": lambda x, y: jtl.data.balanced(of(x, y), Y),
    "the target": lambda x, y: jtl.data.pair(of(), of(x, y)),
    "one of several": lambda x, y: jtl.data.several(a=of(), b=of(x, y)),
    "by length": lambda x, y: jtl.data.by_length(words(x), y, batch_size=4),
    "other names": lambda x, y: jtl.data.pipeline.matched(of(x, y, classes=("a", "b", "c", "d")), "dcba", "it"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_last_row_and_its_label_are_seen(way):
    first, again = (content.contents(WAYS[way](X, Y)) for _ in range(2))
    assert first == again
    for x, y in ((changed(X, 19), Y), (X, changed(Y, 19))):
        other = content.contents(WAYS[way](x, y))
        assert other.keys() == first.keys()
        assert other != first


def test_other_rows_are_another_subset():
    assert jtl.data.subset(of(), [1, 2]).content != jtl.data.subset(of(), [2, 1]).content


def test_episodes_are_of_their_examples():
    def drawn(x):
        return jtl.data.episodes(x, way=2, shot=1, query=1, tasks=2)

    x = np.zeros((5, 4, 2), np.float32)
    assert drawn(x).content == drawn(x).content != drawn(changed(x, 4)).content


def test_files_are_known_by_their_names_sizes_and_labels(tmp_path):
    """A folder may move; a file of another size, another name or another label is another data set."""

    def photos(root):
        for i, name in enumerate(("ants", "bees", "ants", "bees")):
            (tmp_path / root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / root / name / f"{i}.bmp")
        return tmp_path / root

    def told(root):
        return jtl.data.folder(root, batch_size=2, size=8).content

    first = told(photos("a"))
    assert told(photos("elsewhere")) == first
    for number, change in enumerate(
        (
            lambda root: Image.new("RGB", (9, 8)).save(root / "bees" / "3.bmp"),
            lambda root: (root / "bees" / "3.bmp").rename(root / "bees" / "4.bmp"),
            lambda root: (root / "ants" / "2.bmp").rename(root / "bees" / "2.bmp"),
        )
    ):
        root = photos(str(number))
        change(root)
        assert told(root) != first


def test_of_large_arrays_and_many_files_some_are_read(monkeypatch, tmp_path):
    """The limit holds for bytes, and the rows are evenly apart."""
    monkeypatch.setattr(content, "LIMIT", X.nbytes // 4)
    first = content.of_arrays(X)
    assert [row for row in range(20) if content.of_arrays(changed(X, row)) != first] == [0, 4, 8, 12, 16]
    monkeypatch.setattr(content, "FILES", 2)
    files = [tmp_path / str(i) for i in range(4)]
    for file in files:
        file.write_bytes(b"1")
    first, seen = content.of_files(files, None), []
    for file in files:
        file.write_bytes(b"12")
        seen.append(content.of_files(files, None) != first)
        file.write_bytes(b"1")
    assert seen == [True, False, True, False]


def test_texts_do_not_run_into_each_other():
    assert content.of_texts(["ab", "c"], Y) != content.of_texts(["a", "bc"], Y)
    assert content.of_texts(["ab", "c"], Y) != content.of_texts(["ab", "c"], changed(Y, 0))
