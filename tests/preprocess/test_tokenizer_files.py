"""The tokenizer's files come with the weights and are saved with the network."""

import json
import shutil

import jax
import made
import numpy as np
import pytest

from jtl.preprocess import text
from jtl.preprocess.tokenizer_files import Vocabulary, vocabulary
from jtl.pretrained.load import load
from jtl.pretrained.save import save

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "é", "##b", "##c", "A", "北"]
TEXTS = ["", "a b", "Abc é", "北京 ab [MASK] abb", "b " * 20]


@pytest.fixture
def folder(tmp_path):
    """A network whose tokenizer keeps upper case, as only one of its files says."""
    found = made.folder(tmp_path / "in", made.BERT)
    (found / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (found / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    )
    (found / "merges.md").write_text("no tokenizer's file")
    return found


def tokenizers_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name in ("vocab.txt", "tokenizer_config.json")}


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("form", ["hf", "jtl"])
def test_it_travels_with_the_network(folder, tmp_path, form):
    before = text.tokenizer(folder, length=8)(TEXTS)
    assert before["ids"][2, 1] == WORDS.index("A")
    loaded = load(folder)
    assert loaded.tokenizer == Vocabulary(folder, ("tokenizer_config.json", "vocab.txt"))
    same(text.tokenizer(loaded.tokenizer, length=8)(TEXTS), before)
    save(tmp_path / "out", loaded, format=form)
    assert tokenizers_of(tmp_path / "out") == tokenizers_of(folder)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.json",
        *loaded.tokenizer.files,
    }
    shutil.rmtree(folder)
    again = load(tmp_path / "out")
    same(text.tokenizer(again.tokenizer, length=8)(TEXTS), before)
    save(tmp_path / "out", again, format=form)  # over itself
    same(text.tokenizer(tmp_path / "out", length=8)(TEXTS), before)


def test_an_earlier_networks_files_make_way(folder, tmp_path):
    """One that is read first would else decide how this network's texts are cut."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "tokenizer.json").write_text("of another")
    save(out, load(folder)._replace(tokenizer=None))
    assert (out / "tokenizer.json").read_text() == "of another"  # it has none of its own: perhaps it is this one's
    save(out, load(folder))
    assert vocabulary(out) == Vocabulary(out, ("tokenizer_config.json", "vocab.txt"))


def test_without_a_vocabulary_there_is_no_tokenizer(folder, tmp_path):
    (folder / "vocab.txt").unlink()
    loaded = load(folder)
    assert loaded.tokenizer is None
    with pytest.raises(ValueError, match="no tokenizer lay beside the network's weights"):
        text.tokenizer(loaded.tokenizer, length=8)
    assert load(folder / "model.safetensors", arch=made.BERT).tokenizer is None
    assert load(made.folder(tmp_path / "vit", made.VIT)).tokenizer is None


def test_files_that_are_gone_are_named_before_anything_is_written(folder, tmp_path):
    save(tmp_path / "out", load(folder))
    before, loaded = made.files(tmp_path / "out"), load(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"vocab.txt of the tokenizer .* no longer in .*tokenizer=None"):
        save(tmp_path / "out", loaded)
    assert made.files(tmp_path / "out") == before


def test_transformers_reads_it_beside_the_network(folder, tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    save(tmp_path / "out", load(folder))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    given = theirs(TEXTS, padding="max_length", truncation=True, max_length=8, return_tensors="np")
    ours = text.tokenizer(tmp_path / "out", length=8)(TEXTS)
    for name, other in (("ids", "input_ids"), ("mask", "attention_mask"), ("types", "token_type_ids")):
        np.testing.assert_array_equal(ours[name], given[other])


def test_transformers_reads_a_gpt2s_beside_it(tmp_path):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    from tokenizers import ByteLevelBPETokenizer

    bytes_ = ByteLevelBPETokenizer()
    bytes_.train_from_iterator(
        TEXTS * 3, vocab_size=280, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False
    )
    size = bytes_.get_vocab_size()
    measures = {"n_embd": 12, "n_layer": 1, "n_head": 3, "n_positions": 16, "vocab_size": size}
    transformers.GPT2Model(transformers.GPT2Config(**measures)).save_pretrained(tmp_path / "in")
    bytes_.save_model(str(tmp_path / "in"))
    save(tmp_path / "out", load(tmp_path / "in"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "GPT2" in type(theirs).__name__
    theirs.pad_token = theirs.eos_token
    given = theirs(TEXTS, padding="max_length", truncation=True, max_length=8, return_tensors="np")
    ours = text.tokenizer(tmp_path / "out", length=8)(TEXTS)
    np.testing.assert_array_equal(ours["mask"], given["attention_mask"])
    np.testing.assert_array_equal(ours["ids"], given["input_ids"])
    net = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert net.config.vocab_size == len(theirs) == size
