"""Decisions of `jtl finetune` that need no run."""

import pytest

from jtl.command.tune import between


@pytest.mark.parametrize("steps", [1, 6, 10, 19, 21, 41, 50, 59, 1000])
@pytest.mark.parametrize("epoch", [1, 2, 7, 60])
def test_there_are_ten_to_twenty_evaluations(steps, epoch):
    """The help says so; an epoch of one step gave fifty, and patience ended within the warm-up."""
    count = -(-steps // between(steps, epoch))
    assert min(steps, 10) <= count <= 20
