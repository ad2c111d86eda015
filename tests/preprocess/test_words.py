"""Words and their labels as tokens, against transformers."""

import numpy as np
import pytest

from jtl.preprocess import conll, text
from jtl.preprocess.words import word_labels, words

SENTENCES = [
    ["Unaffable", "people", "live", "in", "Reykjavik", "."],
    ["hello"],
    ["a", "\u200d", "b"],  # the tokenizer drops the word in the middle
    ["word"] * 20,  # too long
]


@pytest.fixture
def folder(real_data, tmp_path):
    """The vocabulary of BERT as a folder."""
    vocabulary = real_data("text/bert-base-uncased-vocab.txt")
    (tmp_path / "vocab.txt").write_text(vocabulary.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_tokens_and_beginnings_are_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    x, begins = words(text.tokenizer(folder, length=12), SENTENCES)
    given = theirs(SENTENCES, is_split_into_words=True, padding="max_length", truncation=True, max_length=12)
    assert x["ids"].tolist() == given["input_ids"]
    assert x["mask"].astype(int).tolist() == given["attention_mask"]
    for row, found in enumerate(begins):
        ids = given.word_ids(row)
        first = [i for i, word in enumerate(ids) if word is not None and word not in ids[:i]]
        wanted = np.full(12, -1)
        wanted[first] = [ids[i] for i in first]
        np.testing.assert_array_equal(found, wanted)
    assert begins[2].max() == 2  # counts the word without a token
    assert (begins[2] >= 0).sum() == 2


def test_labels_stand_where_their_word_begins(folder):
    _, begins = words(text.tokenizer(folder, length=12), SENTENCES[:3])
    labels = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10]]
    found = word_labels(begins, labels)
    assert [row[row != -100].tolist() for row in found] == [[1, 2, 3, 4, 5, 6], [7], [8, 10]]
    assert ((found == -100) == (begins == -1)).all()


def test_wrong_sentences_and_labels_are_refused(folder):
    tokenizer = text.tokenizer(folder, length=12)
    with pytest.raises(TypeError, match=r"sentences\[1\] is the string 'two words'; give a list of words"):
        words(tokenizer, [["one"], "two words"])
    begins = np.array([[-1, 0, 1]])
    with pytest.raises(ValueError, match=r"labels\[0\] has 1 labels for 2 words"):
        word_labels(begins, [[1]])
    with pytest.raises(ValueError, match="2 rows of labels for 1 sentences"):
        word_labels(begins, [[1, 2], [3]])


def cutters():
    """Pre-tokenizers, and whether words given alone are as in a text."""
    from tokenizers import Regex, pre_tokenizers

    letters = pre_tokenizers.Split(Regex(r" ?\p{L}+"), "isolated")
    words = pre_tokenizers.Split(Regex(r"\p{L}+"), "removed", invert=True)
    bare, spaced = (pre_tokenizers.ByteLevel(add_prefix_space=space) for space in (False, True))
    return {
        "GPT-2": (bare, False),
        "RoBERTa, told so": (spaced, True),
        "Llama 3": (pre_tokenizers.Sequence([letters, bare]), False),
        "CLIP": (pre_tokenizers.Sequence([words, bare]), True),
        "BERT": (pre_tokenizers.BertPreTokenizer(), True),
        "XLM-R": (pre_tokenizers.Metaspace(prepend_scheme="always"), True),
        "Mistral": (pre_tokenizers.Metaspace(prepend_scheme="first", split=False), True),
        "unmarked": (pre_tokenizers.Metaspace(prepend_scheme="never"), False),
    }


@pytest.mark.parametrize("name", cutters())
def test_a_tokenizer_that_would_join_words_is_refused(name, tmp_path):
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE({"<|endoftext|>": 0, "a": 1, "Ġ": 2, "▁": 3}, []))
    backend.pre_tokenizer, apart = cutters()[name]
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = text.tokenizer(tmp_path / "tokenizer.json", length=8)
    if apart:
        x, begins = words(tokenizer, [["a", "a"]])
        assert x["ids"].tolist() == tokenizer(["a a"])["ids"].tolist()
        assert begins.max() == 1
    else:
        with pytest.raises(ValueError, match=r"would join the words of a sentence.*set add_prefix_space to true"):
            words(tokenizer, [["a", "a"]])


def test_a_file_of_columns_is_read_by_sentences(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text("EU NNP B-org\nrejects VBZ O\n\n\nNew York\tB-loc\n \t\nend\tO", encoding="utf-8")
    assert conll.read(path) == ([["EU", "rejects"], ["New York"], ["end"]], [["B-org", "O"], ["B-loc"], ["O"]])
    path.write_text("-DOCSTART- -X- -X- O\n\nEU NNP B-org\n\n-DOCSTART- O\nend O\n", encoding="utf-8")
    assert conll.read(path) == ([["EU"], ["end"]], [["B-org"], ["O"]])
    path.write_text("EU B-org\nalone\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: 'alone' has one column"):
        conll.read(path)


def test_wnut17_is_read_whole(real_data):
    """Its data card counts 3,394, 1,009 and 1,287 sentences, and 13 tags."""
    names = {"wnut17train.conll": 3394, "emerging.dev.conll": 1009, "emerging.test.annotated": 1287}
    for name, count in names.items():
        path = real_data(f"text/wnut17/{name}")
        sentences, tags = conll.read(path)
        assert len(sentences) == count
        assert all(len(a) == len(b) for a, b in zip(sentences, tags, strict=True))
        assert len({tag for row in tags for tag in row}) == 13
        assert sum(map(len, tags)) == sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").split("\n"))
