import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.backbones.registry import FAMILIES
from jtl.pretrained.presets import presets, tables
from jtl.weights.mapping.rules import Rule, Rules, plain_end, spelled

ODD = ["a|b", "(?:a|b)c", "((a|b)c|d)", "ab?", r"x\d", r"x\.w", r"\.w{2}", "a$", "(?i)ab", "a(b|)", "[ab]c", r"a\b"]
ODD += [r"a\\", r"a\\b", r"\(a", "(?:a)(?:b)c*", "(?P<x>a)b"]


def is_as_said(pattern, data):
    name = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assert name.endswith(plain_end(pattern))
    names = spelled(pattern)
    assert names is None or name in names
    assert all(re.fullmatch(pattern, name) for name in names or ())


@pytest.mark.parametrize("pattern", ODD)
@given(st.data())
def test_what_a_pattern_matches_has_its_plain_end_or_is_spelled(pattern, data):
    """Other names are not tried, and spelled ones looked up."""
    is_as_said(pattern, data)


def some_table(data):
    kind = data.draw(st.sampled_from(list(FAMILIES)))
    family, names = FAMILIES[kind], presets(FAMILIES[kind])
    config = family.complete((family.named(names[0], {}) if names else None) or {"model_type": kind}, "")
    found = tables(family, config)
    return found[data.draw(st.sampled_from(list(found)))]


@settings(deadline=None)  # some tables have thousands of patterns
@given(st.data())
def test_so_it_is_with_the_names_of_every_family(data):
    is_as_said(data.draw(st.sampled_from(some_table(data))).pattern, data)


@pytest.mark.parametrize(
    ("pattern", "end"),
    [(r"(?:vit\.|)layer\.3\.bias", "layer.3.bias"), (r"block\d+/x", "/x"), (r"a\\b", r"a\b"), ("a|b", "")],
)
def test_the_end_of_a_pattern_is_its_plain_text(pattern, end):
    assert plain_end(pattern) == end


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"(?:vit\.|)layer\.3\.bias", {"vit.layer.3.bias", "layer.3.bias"}),
        (r"(?:a|\||b)\\(?:|c)", {"a\\", "|\\", "b\\", "a\\c", "|\\c", "b\\c"}),
        ("", {""}),
        ("a|b", None),
        ("(a|b)c", None),
        ("(?:a|b)?c", None),
        (r"a\d", None),
        ("(?:a.|b)", None),
    ],
)
def test_plain_texts_and_their_choices_are_spelled(pattern, names):
    found = spelled(pattern)
    assert found is None if names is None else set(found or ()) == names


def first_of(table, name):
    for rule in table:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return rule, tuple(match.expand(path) for path in rule.paths)
    return None


@settings(deadline=None)
@given(st.data())
def test_a_name_has_the_first_rule_that_matches(data):
    """As `re` has it, of names of the table and of others."""
    table = some_table(data)
    pattern = data.draw(st.sampled_from(table)).pattern
    name = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True) | st.text(max_size=9))
    assert Rules(table).first(name) == first_of(table, name)


@given(st.permutations(["ab", "a.", "(?:a|b)b", "(.)b", ".*", "(?:a|)b", r"c\.d"]), st.text("abcd.", max_size=4))
def test_of_several_rules_the_first_decides(patterns, name):
    table = [Rule(pattern, (rf"{i}/x", r"y\1" if "(." in pattern else "y")) for i, pattern in enumerate(patterns)]
    assert Rules(table).first(name) == first_of(table, name)


def test_what_is_no_regex_is_told_at_once():
    with pytest.raises(re.error, match="unterminated"):
        Rules([Rule("[ab", "x")])
