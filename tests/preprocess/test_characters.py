import numpy as np
import pytest

from jtl.preprocess.characters import Alphabet, alphabet


def test_texts_become_rows_of_numbers_and_come_back():
    letters = alphabet(["one", "two", "naïve"])
    assert letters.characters == "aenotvwï"
    texts = ["one", "", "naïve", "two"]
    ids = letters.ids(texts, 7)
    assert (ids.shape, ids.dtype) == ((4, 7), np.int32)
    assert ids[0].tolist() == [4, 3, 2, 0, 0, 0, 0]
    assert letters.texts(ids) == texts
    assert letters.ids(texts).shape == (4, 5)


def test_what_an_alphabet_cannot_write_is_refused():
    with pytest.raises(ValueError, match="characters='aba': give each once"):
        Alphabet("aba")
    with pytest.raises(ValueError, match="give each once, and at least one"):
        alphabet([])
    with pytest.raises(ValueError, match=r"texts\[1\] holds 'c', which is not in the alphabet 'ab'"):
        Alphabet("ab").ids(["a", "bc"])
    with pytest.raises(ValueError, match=r"texts\[0\] has 3 characters; length=2 has no room"):
        Alphabet("ab").ids(["aba"], 2)
