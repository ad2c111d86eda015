import jax.numpy as jnp
import pytest

from jtl.params import flatten, match, merge, select, split, unflatten

TREE = {
    "backbone": {"stage1": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "norm": {"scale": jnp.ones(3)}},
    "head": {"kernel": jnp.ones((3, 5)), "bias": jnp.zeros(5)},
}


def test_flatten_names_paths_and_unflatten_undoes_it():
    assert list(flatten(TREE)) == [
        "backbone/stage1/kernel", "backbone/stage1/bias", "backbone/norm/scale", "head/kernel", "head/bias",
    ]  # fmt: skip
    assert unflatten(flatten(TREE)) == TREE
    with pytest.raises(ValueError, match="holds a slash"):
        flatten({"a/b": 1})


def test_first_match_wins_and_all_are_matched():
    found = flatten(match([(".*/bias", 0.0), ("head/.*", 2.0), (".*", 1.0)], TREE))
    assert found == {
        "backbone/stage1/kernel": 1.0, "backbone/stage1/bias": 0.0, "backbone/norm/scale": 1.0,
        "head/kernel": 2.0, "head/bias": 0.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"3 parameters are matched by no pattern.*'backbone/stage1/kernel'"):
        match([("head/.*", 1.0)], TREE)


def test_a_regex_matches_the_whole_path():
    with pytest.raises(ValueError, match="'head' matches no parameter"):
        match([("head", 1.0), (".*", 0.0)], TREE)


def test_the_name_of_a_module_is_told_how_to_name_its_parameters():
    with pytest.raises(ValueError, match=r"'head' matches no parameter; 'head' is a module: give 'head/\.\*'"):
        select("head")({"backbone": {"w": 0}, "head": {"w": 0}})


def test_a_pattern_without_a_match_names_the_nearest():
    with pytest.raises(ValueError, match=r"'haed/.\*' matches no parameter; the nearest are .*'head'"):
        select("haed/.*")(TREE)
    with pytest.raises(ValueError, match="not a regular expression"):
        select("head/(")
    with pytest.raises(ValueError, match="at least one pattern"):
        select()


def test_split_prunes_and_merge_undoes_it():
    trained, frozen = split(TREE, select("head/.*", "backbone/norm/.*"))
    assert list(flatten(trained)) == ["backbone/norm/scale", "head/kernel", "head/bias"]
    assert list(flatten(frozen)) == ["backbone/stage1/kernel", "backbone/stage1/bias"]
    assert merge(trained, frozen) == TREE
    everything, nothing = split(TREE, select(".*"))
    assert (everything, nothing) == (TREE, {})
    with pytest.raises(ValueError, match="both trees hold 'head/kernel'"):
        merge(trained, {"head": {"kernel": 0}})
    with pytest.raises(ValueError, match="differ at 'backbone"):
        split(TREE, {"head": {"kernel": True, "bias": True}})


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"layers": [{"w": 1}, {"w": 2}]}, "'layers' is a list: give nested dicts of arrays"),
        ({"a": {"b": (1, 2)}}, "'a/b' is a tuple: give"),
        ({"a": {0: 1}}, "the name 0 under 'a' is of type int: give a string"),
    ],
)
def test_parameters_without_a_path_of_their_own_are_refused(params, said):
    """A list would be frozen, or counted, as one parameter, and numbers would come back as strings."""
    for change in (select(".*"), lambda params: split(params, {})):
        with pytest.raises(TypeError, match=said):
            change(params)
