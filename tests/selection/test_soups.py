import jax.numpy as jnp
import numpy as np
import pytest

from jtl.model import Variables
from jtl.selection.soups import greedy_soup, interpolate


def candidates(count=6):
    draw = np.random.default_rng(0)
    return [{"backbone": {"w": draw.normal(size=(3, 2)), "b": draw.normal(size=2)}} for _ in range(count)]


def distance(target):
    return lambda tree: -float(sum(np.abs(np.asarray(tree["backbone"][n]) - target).sum() for n in ("w", "b")))


def test_the_ends_are_the_networks_and_the_middle_is_their_mean():
    a, b = (Variables(tree, {"mean": np.float32(i)}) for i, tree in enumerate(candidates(2)))
    for share in (0.0, 0.25, 1.0):
        found = interpolate(a, b, share)
        expected = (1 - share) * a.params["backbone"]["w"] + share * b.params["backbone"]["w"]
        np.testing.assert_allclose(found.params["backbone"]["w"], expected, rtol=1e-6)
        np.testing.assert_allclose(found.stats["mean"], share)


def test_half_precision_is_averaged_in_single():
    a, b = {"w": jnp.full(2, 1.0, jnp.bfloat16)}, {"w": jnp.full(2, 3.0, jnp.bfloat16)}
    found = interpolate(a, b, 0.3)["w"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.asarray(1.6, jnp.bfloat16))


@pytest.mark.parametrize("target", [0.0, 0.5, 3.0])
def test_a_soup_is_never_worse_than_the_best_and_scores_what_it_says(target):
    given, score = candidates(), distance(target)
    soup = greedy_soup(given, score)
    assert soup.score >= max(score(one) for one in given)
    mean = {n: np.mean([given[i]["backbone"][n] for i in soup.taken], axis=0) for n in ("w", "b")}
    np.testing.assert_allclose(soup.average["backbone"]["w"], mean["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(soup.score, score({"backbone": mean}), rtol=1e-5)


def test_greed_takes_in_order_of_the_scores_alone():
    given = [{"w": np.float32(v)} for v in (5.0, -1.0, 2.0)]
    soup = greedy_soup(given, lambda tree: -abs(float(tree["w"])))
    # −1 alone is best; with 2 the mean is .5, better; with 5 it is 2, worse.
    assert soup.taken == (1, 2)
    assert float(soup.average["w"]) == 0.5


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"share=1\.5"):
        interpolate({"w": 0.0}, {"w": 1.0}, 1.5)
    with pytest.raises(ValueError, match=r"tree 1 has \['v'\] of shape \(\)"):
        interpolate({"w": 0.0}, {"v": 1.0}, 0.5)
    with pytest.raises(ValueError, match="candidates is empty"):
        greedy_soup([], float)
    with pytest.raises(ValueError, match="candidate 0 is NaN"):
        greedy_soup([{"w": 0.0}], lambda _: float("nan"))
