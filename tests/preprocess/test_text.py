"""Tokenizers against transformers' on difficult texts."""

import json
import shutil
import sys
from inspect import unwrap

import numpy as np
import pytest

from jtl.preprocess import text
from jtl.weights.formats.errors import WeightFileError

LENGTH = 24
HARD = [
    "",
    " ",
    "\t\n\r",
    "hello world",
    "Hello, World!",
    "HELLO",
    "  two  spaces  ",
    "naïve café déjà-vu Ångström",
    "Zażółć gęślą jaźń",
    "e\u0301 and \u00e9",
    "ﬁne ﬂow ǆ Ⅷ ½",
    "İstanbul ISPARTA ıslak",
    "straße STRASSE ẞ",
    "Ελληνικά ΣΊΣΥΦΟΣ σίσυφος",
    "привет мир Ёлка",
    "北京欢迎你",
    "日本語のテキストです。",
    "カタカナ ｶﾀｶﾅ ひらがな",
    "한국어 텍스트",
    "中文and英文mixed混合123",
    "مرحبا بالعالم",
    "שָׁלוֹם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "👋🏽 hi 👨‍👩‍👧‍👦 🇵🇱 🏳️‍🌈",
    "😀😃😄😁😆",
    "a😀b",
    "don't can't won't it's I'm they'll we've",
    "'s 't 're 've 'm 'll 'd",
    "rock'n'roll ‘quoted’ “double” «guillemets»",
    "1,234.56 3.14e-10 0x1F 1/2 50% $5 €7 £9",
    "https://example.com/a?b=c&d=e#f user@host.org",
    "C++ C# .NET a_b_c snake_case kebab-case",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "[cls] [ SEP ] [MASK]ed",
    "<s> </s> <pad> <mask> <unk>",
    "a<mask>b <mask> c",
    "<|endoftext|> and <|endoftext|>",
    "##ing ##s",
    "\u00a0non\u00a0breaking\u2003em\u3000wide",
    "zero\u200bwidth\u200djoiner\ufeff",
    "soft\u00adhyphen",
    "control\x00\x01\x1f\x7fbytes",
    "replacement \ufffd private \ue000",
    "\u202eright to left\u202c",
    "line\u2028separator\u2029paragraph",
    "combining z̴̡͎a̵͓l̸͚g̷o̶",
    "a" * 99,
    "a" * 100,
    "a" * 101,
    "word " * 60,
    "北" * 60,
    "😀" * 60,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "....!!!???,,,;;;:::",
    "---___***///\\\\\\",
    "(a)[b]{c}<d>",
    "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8",
    "Ⓗⓔⓛⓛⓞ ＨＥＬＬＯ",
    "x²+y²=z² ∑∫√∞≠≤ αβγ",
]


def texts():
    """Two hundred: those by hand, pieces of them joined, and characters of every plane at random."""
    rng = np.random.default_rng(0)
    found = list(HARD)
    while len(found) < 140:
        parts = [HARD[i][: rng.integers(1, 30)] for i in rng.integers(0, len(HARD), rng.integers(2, 6))]
        found.append(str(rng.choice(["", " ", "-", "\n"])).join(parts))
    ranges = [(0x20, 0x7F), (0x80, 0x250), (0x300, 0x600), (0x4E00, 0x5000), (0xAC00, 0xAD00), (0x1F300, 0x1F700)]
    while len(found) < 200:
        points = [rng.integers(*ranges[i]) for i in rng.integers(0, len(ranges), rng.integers(1, 40))]
        found.append("".join(map(chr, points)))
    return found


def test_there_are_two_hundred():
    assert len(set(texts())) == 200


def agree(ours, theirs, pairs=True, more=()):
    """Ids, masks and types of texts, and of pairs of a text with the next."""
    given = [*texts(), *more]
    cases = [(given,), (given, given[1:] + given[:1])] if pairs else [(given,)]
    for case in cases:
        found = ours(*case)
        wanted = theirs(
            *case,
            truncation=True,
            padding="max_length",
            max_length=LENGTH,
            return_tensors="np",
            return_token_type_ids=True,
        )
        names = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
        for name, other in names.items():
            np.testing.assert_array_equal(found[name], wanted[other], err_msg=name)
        assert {n: a.dtype.name for n, a in found.items()} == {"ids": "int32", "mask": "bool", "types": "int32"}
        # Texts are long and short enough to be cut and filled up.
        assert found["mask"].all(1).any()
        assert not found["mask"].all()


@pytest.fixture
def vocabulary(real_data, tmp_path):
    """A folder with BERT's vocabulary and nothing else."""
    shutil.copy(real_data("text/bert-base-uncased-vocab.txt"), tmp_path / "vocab.txt")
    return tmp_path


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="the reference; it is installed for Python 3.11 only")


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
        {"do_lower_case": False, "strip_accents": True},
    ],
)
def test_a_vocab_txt_is_transformers_bert(vocabulary, transformers, config):
    if config is not None:
        (vocabulary / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.BertTokenizer.from_pretrained(vocabulary)
    ours = text.tokenizer(vocabulary, length=LENGTH)
    assert ours.size == len(theirs) == 30522
    agree(ours, theirs)
    # What is saved, transformers and jtl read alike.
    ours.save(vocabulary / "out")
    agree(text.tokenizer(vocabulary / "out", length=LENGTH), theirs)
    agree(ours, transformers.AutoTokenizer.from_pretrained(vocabulary / "out"))


def trained(folder, special):
    """A small vocabulary of merged bytes, as GPT-2's `vocab.json` and `merges.txt`."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts(), vocab_size=600, min_frequency=1, special_tokens=special, show_progress=False)
    made.save_model(str(folder))


@pytest.mark.parametrize(
    ("kind", "special"),
    [("Roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), ("GPT2", ["<|endoftext|>"])],
)
@pytest.mark.parametrize("config", [None, {"add_prefix_space": True}])
def test_a_vocab_json_with_merges_is_transformers(transformers, tmp_path, kind, special, config):
    trained(tmp_path, special)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = getattr(transformers, f"{kind}Tokenizer").from_pretrained(tmp_path)
    if kind == "GPT2":
        theirs.pad_token = theirs.eos_token
    ours = text.tokenizer(tmp_path, length=LENGTH)
    agree(ours, theirs)
    ours.save(tmp_path / "out")
    agree(text.tokenizer(tmp_path / "out", length=LENGTH), theirs)


def test_a_vocab_json_of_marked_words_is_clips(transformers, tmp_path):
    """Its words end in `</w>`; CLIP's files have the names of GPT-2's."""
    made = transformers.CLIPTokenizer().backend_tokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special, letters = ["<|startoftext|>", "<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = made.normalizer, made.pre_tokenizer
    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=800,
            special_tokens=special,
            end_of_word_suffix="</w>",
            initial_alphabet=letters,
            show_progress=False,
        ),
    )
    tokenizer.model.save(str(tmp_path))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ours = text.tokenizer(tmp_path, length=LENGTH)
    agree(ours, theirs)
    ours.save(tmp_path / "out")
    agree(text.tokenizer(tmp_path / "out", length=LENGTH), theirs)
    agree(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "out"))


NEW = {"content": "[NEW]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False, "special": True}


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"[NEW]": 8}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"8": NEW, "4": {**NEW, "content": "[MASK]"}}}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"8": {**NEW, "normalized": True, "special": False}}}},
        {"tokenizer_config.json": {"additional_special_tokens": ["[NEW]"]}},
        {"special_tokens_map.json": {"pad_token": "b", "cls_token": "a", "mask_token": NEW | {"content": "[MASK]"}}},
        {"tokenizer_config.json": {"pad_token": "[NEW]"}, "added_tokens.json": {"[NEW]": 8}},
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_tokens_beside_the_vocabulary_are_transformers(transformers, tmp_path, files, whole):
    small(tmp_path)
    if whole and "added_tokens.json" not in files:
        transformers.BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink()
        files = {name: value for name, value in files.items() if name != "special_tokens_map.json"}
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    ours = text.tokenizer(tmp_path, length=LENGTH)
    assert ours.size == len(theirs)
    agree(ours, theirs, more=["a [NEW] b [new] a[NEW]", "a [MASK] b", "b [PAD] a"])
    ours.save(tmp_path / "out")
    agree(text.tokenizer(tmp_path / "out", length=LENGTH), theirs, more=["a [NEW] b [new]"])


@pytest.mark.parametrize("config", [{"model_input_names": ["input_ids"]}, {"split_special_tokens": True}])
def test_what_a_config_says_of_inputs_is_transformers(transformers, tmp_path, config):
    """Whether a second text is told apart, and whether "[SEP]" in a text is the token."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc[]", "sep"]))
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), **config).save_pretrained(tmp_path)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), text.tokenizer(tmp_path, length=10)
    wanted, found = theirs("a [SEP] b", "c"), ours(["a [SEP] b"], ["c"])
    mask = found["mask"][0]
    assert found["ids"][0][mask].tolist() == wanted["input_ids"]
    assert found["types"][0][mask].tolist() == wanted.get("token_type_ids", [0] * mask.sum())
    assert ours.counts(["a [SEP] b"]) == [len(theirs("a [SEP] b")["input_ids"])]
    for wrong in ({"model_input_names": "input_ids"}, {"split_special_tokens": "yes"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=.* in tokenizer_config\.json: give"):
            text.tokenizer(tmp_path, length=10)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("Bert", {"do_lower_case": False}),
        ("Bert", {"strip_accents": False}),
        ("Bert", {"tokenize_chinese_chars": False}),
        ("Bert", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}),
        ("GPT2", {"add_prefix_space": True}),
        ("GPT2", {"padding": "Left"}),
    ],
)
def test_a_config_goes_before_a_tokenizer_json(transformers, tmp_path, kind, config):
    """Where it says something, and the class is not any; a side that it leaves out is the tokenizer.json's."""
    if kind == "Bert":
        (tmp_path / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"aAäÄ北b", "##b"])
        )
    else:
        trained(tmp_path, ["<|endoftext|>"])
    made = getattr(transformers, f"{kind}Tokenizer").from_pretrained(tmp_path)
    if side := config.pop("padding", None):
        made.backend_tokenizer.enable_padding(direction=side.lower(), pad_token="<|endoftext|>")
        made.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    else:
        made.save_pretrained(tmp_path)
    config = {
        "tokenizer_class": f"{kind}Tokenizer",
        "pad_token": "[PAD]" if kind == "Bert" else "<|endoftext|>",
    } | config
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    agree(text.tokenizer(tmp_path, length=LENGTH), theirs, more=["a A ä Ä 北b ab"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "'BertJapaneseTokenizer': of a vocab.txt are"),
        ({"tokenizer_config.json": {"word_tokenizer_type": "mecab"}}, "word_tokenizer_type='mecab': only 'basic'"),
        ({"added_tokens.json": {"[NEW]": 9}}, r"'\[NEW\]' is to have the id 9; the vocabulary gives it 8"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": "a"}}}, "added_tokens_decoder=.*: give ids"),
    ],
)
def test_texts_cut_in_another_way_are_refused(tmp_path, files, words):
    small(tmp_path)
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(ValueError, match=words):
        text.tokenizer(tmp_path, length=8)


def test_a_tokenizer_json_is_transformers(vocabulary, transformers):
    theirs = transformers.BertTokenizer.from_pretrained(vocabulary)
    theirs.save_pretrained(vocabulary / "saved")
    assert not (vocabulary / "saved" / "vocab.txt").exists()
    agree(text.tokenizer(vocabulary / "saved", length=LENGTH), theirs)
    agree(text.tokenizer(vocabulary / "saved" / "tokenizer.json", length=LENGTH), theirs)


def test_sides_are_those_of_the_config(vocabulary, transformers):
    config = {"padding_side": "left", "truncation_side": "left"}
    (vocabulary / "tokenizer_config.json").write_text(json.dumps(config))
    agree(text.tokenizer(vocabulary, length=LENGTH), transformers.BertTokenizer.from_pretrained(vocabulary))


def small(folder, **config):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_rows_by_hand(tmp_path):
    made = text.tokenizer(small(tmp_path), length=7)
    found = made(["A bb", ""], ["b", "zz a b a b a"])
    np.testing.assert_array_equal(found["ids"], [[2, 5, 6, 7, 3, 6, 3], [2, 3, 1, 5, 6, 5, 3]])
    np.testing.assert_array_equal(found["types"], [[0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(made(["b"])["mask"], [[True, True, True, False, False, False, False]])
    assert made([])["ids"].shape == (0, 7)
    # A longer list changes nothing in a row: no state is kept between calls.
    np.testing.assert_array_equal(made(["a"] * 9 + ["A bb"])["ids"][-1], made(["A bb"])["ids"][0])


def test_bad_input_is_named(tmp_path):
    made = text.tokenizer(small(tmp_path), length=3)
    for given, words in (
        ("a b", "texts is a str: give a list"),
        ([b"a"], r"texts\[0\] is a bytes"),
        (["a", None], r"texts\[1\] is a NoneType, not a string"),
    ):
        with pytest.raises(TypeError, match=words):
            unwrap(text.Tokenizer.__call__)(made, given)
    for given, words in (
        ((["a", "\ud83d"],), r"texts\[1\] holds '\\ud83d', half of a character"),
        ((["a"], ["b", "b"]), "1 texts and 2 pairs"),
        ((["a"], ["b"]), "length=3: a pair of texts has 3 special tokens; give 4"),
    ):
        with pytest.raises(ValueError, match=words):
            made(*given)
    with pytest.raises(ValueError, match="length=2: a text has 2 special tokens; give 3"):
        text.tokenizer(tmp_path, length=2)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing there; looked for a tokenizer.json, a vocab.txt"):
        text.tokenizer(tmp_path, length=8)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"vocab.json there; looked for .* beside its merges.txt"):
        text.tokenizer(tmp_path, length=8)
    (tmp_path / "tokenizer.json").write_text('{"model": 7}')
    with pytest.raises(ValueError, match=r"tokenizer.json: cannot be read as a tokenizer"):
        text.tokenizer(tmp_path, length=8)
    (tmp_path / "tokenizer.json").write_text("")
    with pytest.raises(ValueError, match=r"tokenizer.json: is empty"):
        text.tokenizer(tmp_path, length=8)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(ValueError, match=r"vocab.txt: the vocabulary lacks the sep_token '\[SEP\]'"):
        text.tokenizer(tmp_path, length=8)
    for config, error, words in (
        ({"pad_token": "<none>"}, ValueError, "lacks the pad_token '<none>'"),
        ({"pad_token": 7}, ValueError, "a special token is 7: give its text"),
        ({"padding_side": "up"}, ValueError, "padding_side='up': it is 'left' or 'right'"),
    ):
        with pytest.raises(error, match=words):
            text.tokenizer(small(tmp_path, **config), length=8)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(WeightFileError, match=r"tokenizer_config.json: the JSON cannot be read"):
        text.tokenizer(tmp_path, length=8)


def test_the_library_is_imported_where_it_is_used():
    import subprocess

    code = "import sys, jtl; jtl.preprocess.text, jtl.load; assert 'tokenizers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
