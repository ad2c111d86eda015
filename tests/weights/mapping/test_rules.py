import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.weights.mapping.rules import Reference, Rule, Rules, needed, parse


def first_of(table, name):
    for rule in table:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return rule, tuple(match.expand(path) for path in rule.paths)
    return None


PATTERNS = [
    "ab",
    "a.",
    "(?:a|b)b",
    "(.)b",
    ".*",
    "(?:a|)b",
    r"c\.d",
    "ab?c",
    "a+b",
    r"c\.?d",
    "a{2}b",
    "[ab.]c",
    "(?:a(?:b|c)d)?b",
]


@given(st.permutations(PATTERNS), st.text("abcd.", max_size=4))
def test_of_several_rules_the_first_decides(patterns, name):
    """As `re` expands its groups."""
    table = [Rule(pattern, (rf"{i}/x", r"y\1" if "(." in pattern else "y")) for i, pattern in enumerate(patterns)]
    assert Rules(table).first(name) == first_of(table, name)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"layer\.(\d+)\.norm\.weight", ".norm.weight"),
        (r"(?:(?:vit|deit)\.)?h\.[0-9]+\.(?:query|key)_proj\.w(?:eight)?", "_proj.w"),
        ("ab|c", ""),
    ],
)
def test_what_a_name_must_contain(pattern, text):
    assert needed(pattern) == text


@pytest.mark.parametrize(
    ("path", "name", "found"),
    [
        (r"block{1+1}/\2", "layer.11.w", "block12/w"),
        (r"block{1-2}/\2", "layer.11.w", "block9/w"),
        (r"block{1-12}/\2", "layer.11.w", "block-1/w"),  # which no network has
        (r"block\1/\2", "layer.01.w", "block01/w"),
        (r"block{1+0}/\2", "layer.01.w", "block1/w"),
        ("block{1+10}", "layer.990.w", "block1000"),
        (r"{1+1}{1+1}\1/\2", "layer.3.w", "443/w"),
    ],
)
def test_a_path_refers_to_groups(path, name, found):
    first = Rules([Rule(r"layer\.(\d+)\.(\w)", path)]).first(name)
    assert first is not None
    assert first[1] == (found,)


def test_a_number_too_long_for_a_block_is_not_shifted():
    """`int` refuses more than 4300 digits, and a file may have a name of any length."""
    name = "9" * 5000
    assert Rules([Rule(r"(\d+)", "block{1+1}")]).first(name) == (Rule(r"(\d+)", "block{1+1}"), (f"block{name}",))


def test_a_template_in_parts():
    assert parse(r"a{1+2}/\3b{2-1}") == ["a", Reference(1, 2), "/", Reference(3, None), "b", Reference(2, -1), ""]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("block{1}", r"path 'block\{1\}' has a brace that is no reference; write .* as \{1\+1\}"),
        ("block{1*2}", "has a brace"),
        ("block}", "has a brace"),
        ("block{2+1}", r"the path refers to group 2, the pattern has 1"),
        (r"block\2", r"the path refers to group 2, the pattern has 1"),
    ],
)
def test_a_path_that_refers_to_nothing_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        Rules([Rule(r"(\d+)", path)])


def test_a_group_that_is_no_number_is_not_counted_by():
    with pytest.raises(
        ValueError, match=r"counts by group 1, which is 'b' in 'b'; give it a group of digits, as \(\\d\+"
    ):
        Rules([Rule("(a|b)", "block{1+1}")]).first("b")


def test_what_is_no_regex_is_told_at_once():
    with pytest.raises(re.error, match="unterminated"):
        Rules([Rule("[ab", "x")])
