"""Tokenizers that somebody else wrote: what published ones hold is read, what takes hours is refused at once."""

import json
import time

import pytest

from jtl.preprocess import text
from jtl.preprocess.tokenizer_limits import check_pattern
from jtl.weights import WeightFileError

WORDS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "[PAD]": 1, "a": 2}, "unk_token": "[UNK]"}


def written(folder, **parts):
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": WORDS, **parts}))
    return folder


def sequence(*steps, name="normalizers"):
    return {"type": "Sequence", name: list(steps)}


def replaced(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


PUBLISHED = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "clip": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "smiles": r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>|\*|\$|%[0-9]{2}|[0-9])",
    "spaces": r" {2,}",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_are_read(name, tmp_path):
    folder = written(tmp_path, pre_tokenizer=sequence(split(PUBLISHED[name]), name="pretokenizers"))
    assert text.tokenizer(folder, length=8)(["a b", "12 C#"])["ids"].shape == (2, 8)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a+)+$", "repeats what may itself match in several ways"),
        ("(?:a*)*b", "repeats what may"),
        ("(a|a)*b", "repeats what may"),
        ("(?:a?){30}a{30}", "repeats what may"),
        ("((?:aa?){2,9}){2,9}", "repeats what may"),
        ("a{2,}{2,}", "repeats what may"),
        ("a{1,2}+", "repeats what may"),  # Ruby has no possessive form of it
        (r"(?x)( a+ #|)(\n )+", r"has '\(\?x\)', a group that is not known"),  # a comment hides the group's end
        (r"(\c(a+)+", r"has '.*c', which is not known"),
        ("[]a]", "begins with ]"),
        ("a*a*a*a*b", "has 4 endless and 0 variable"),
        ("a?" * 30 + "a" * 30, "has 0 endless and 30 variable"),
        (r"(a)\1", r"has '\\\\1', which is not known"),
        ("(?~ab)", r"has '\(\?~a', a group that is not known"),
        ("(a", "has a group without an end"),
        ("a)", "closes a group"),
        ("[a", "has a class of characters without an end"),
        ("(" * 30 + "a" + ")" * 30, "nests more than 20 groups"),
    ],
)
def test_patterns_that_take_hours_are_refused(pattern, said, tmp_path):
    with pytest.raises(WeightFileError, match=said):
        check_pattern(pattern)
    began = time.monotonic()
    for parts in ({"pre_tokenizer": split(pattern)}, {"normalizer": sequence(replaced("", Regex=pattern))}):
        with pytest.raises(ValueError, match=r"tokenizer\.json: .*the pattern .*could take hours, so it is not read"):
            text.tokenizer(written(tmp_path, **parts), length=8)
    assert time.monotonic() - began < 1


def test_texts_that_grow_without_measure_are_refused(tmp_path):
    """Here a token, which the library normalises while it reads the file, would become a gigabyte."""
    twice = replaced("aa", String="a")
    token = {"id": 3, "content": "aaa", "normalized": True, "special": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    folder = written(tmp_path, normalizer=sequence(*[twice] * 30), added_tokens=[token])
    with pytest.raises(ValueError, match=r"tokenizer\.json: its normalizer can make a text 1\.07e\+09 times as long"):
        text.tokenizer(folder, length=8)
    with pytest.raises(ValueError, match="its decoder can make a text"):
        text.tokenizer(written(tmp_path, decoder=sequence(*[twice] * 30, name="decoders")), length=8)
    with pytest.raises(ValueError, match="its normalizer can make a text 1e\\+03 times"):
        text.tokenizer(written(tmp_path, normalizer=sequence(replaced("a" * 999, Regex="b"))), length=8)
    with pytest.raises(ValueError, match="its normalizer has 401 parts"):
        text.tokenizer(written(tmp_path, normalizer=sequence(*[{"type": "Lowercase"}] * 400)), length=8)
    usual = sequence({"type": "Prepend", "prepend": "▁"}, replaced("▁", String=" "), replaced('"', String="``"))
    found = text.tokenizer(written(tmp_path, normalizer=usual), length=8)(["a b"])
    assert found["mask"].sum() == 1


def test_what_is_no_json_is_refused_by_name(tmp_path):
    for held, said in (
        ("{", "cannot be read"),
        ("[" * 100000, "nested too deeply"),
        ("[]", "no tokenizer"),
        ("", "empty"),
    ):
        (tmp_path / "tokenizer.json").write_text(held)
        with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{said}"):
            text.tokenizer(tmp_path, length=8)


def test_a_pattern_that_gives_up_on_a_text_is_an_error_of_the_text(tmp_path, capfd):
    """The library then panics, with what is no `Exception`."""
    from tokenizers import Regex, pre_tokenizers

    made = text.tokenizer(written(tmp_path), length=8)
    made.backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(ValueError, match=r"the tokenizer gave up on these texts: .*retry-limit"):
        made(["a" * 40 + "b"])
    capfd.readouterr()
