import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checked import INSIDE, positive, within

NONE = (float("nan"), float("inf"), -float("inf"), True, np.True_, "1", None, np.ones(1))


@pytest.mark.parametrize("interval", INSIDE)
def test_an_interval_holds_its_closed_ends_alone(interval):
    low, high = (float(end) for end in interval[1:-1].split(", "))
    for end, bracket in ((low, interval[0]), (high, interval[-1])):
        if bracket in "[]":
            for value in (end, int(end), np.float32(end), np.array(end), jnp.array(end)):
                within(interval, share=value)
        else:
            with pytest.raises(ValueError, match=rf"share={end}: must be a number in "):
                within(interval, share=end)
    within(interval, share=max(low, 0.0) + 0.5)
    for bad in (low - 0.1, *NONE):
        with pytest.raises(ValueError, match="share="):
            within(interval, share=bad)


def test_a_positive_number_is_finite_and_above_zero():
    positive(rate=1e-30, other=np.int32(3))
    for bad in (0, -1.0, *NONE):
        with pytest.raises(ValueError, match=r"rate=.*: must be positive and finite"):
            positive(rate=bad)


def test_a_traced_number_is_let_pass():
    def traced(x):
        within("[0, 1]", x=x)
        positive(x=x)
        return x

    assert jax.jit(traced)(2.0) == 2
