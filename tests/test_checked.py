import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checked import INSIDE, positive, whole, within

INF = float("inf")
NONE = (float("nan"), -INF, True, np.True_, "1", None, np.ones(1))


@pytest.mark.parametrize("interval", INSIDE)
def test_an_interval_holds_its_closed_ends_alone(interval):
    low, high = (float(end) for end in interval[1:-1].split(", "))
    for end, bracket in ((low, interval[0]), (high, interval[-1])):
        if bracket in "[]":
            for value in (end, np.float32(end), np.array(end), jnp.array(end), *([] if end == INF else [int(end)])):
                within(interval, share=value)
        else:
            with pytest.raises(ValueError, match=rf"share={end}: must be a number in "):
                within(interval, share=end)
    within(interval, share=max(low, 0.0) + 0.5)
    for bad in (low - 0.1, *NONE, *([] if interval.endswith("inf]") else [INF])):
        with pytest.raises(ValueError, match="share="):
            within(interval, share=bad)


def test_a_positive_number_is_finite_and_above_zero():
    positive(rate=1e-30, other=np.int32(3))
    for bad in (0, -1.0, INF, *NONE):
        with pytest.raises(ValueError, match=r"rate=.*: must be positive and finite"):
            positive(rate=bad)


def test_a_traced_number_is_let_pass():
    def traced(x):
        within("[0, 1]", x=x)
        positive(x=x)
        return x

    assert jax.jit(traced)(2.0) == 2


@pytest.mark.parametrize("three", [3, np.int32(3), np.array(3), jnp.int32(3)], ids=lambda three: type(three).__name__)
def test_a_whole_number_may_be_an_array_without_axes(three):
    """As `labels.max() + 1` is."""
    whole(3, classes=three)
    with pytest.raises(ValueError, match=r"classes=3: must be an integer of at least 4"):
        whole(4, classes=three)
    for bad in (np.array(3.0), jnp.array([3]), np.array(True)):
        with pytest.raises(ValueError, match="classes="):
            whole(1, classes=bad)


def test_a_string_is_shown_as_one():
    with pytest.raises(ValueError, match="shot='1': must be an integer"):
        whole(1, shot="1")
    with pytest.raises(ValueError, match=r"rate='0\.1': must be positive"):
        positive(rate="0.1")
