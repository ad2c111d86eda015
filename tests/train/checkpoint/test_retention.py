"""Which steps are kept, which is the best, and what is written again."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import pytest
from saved_states import make, same

from jtl.train import Checkpoints
from jtl.train.checkpoint import arrays


def test_the_last_k_and_the_best_are_kept(tmp_path):
    saver = Checkpoints(tmp_path, keep=2)
    for step, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.2]):
        unwrap(Checkpoints.save)(saver, make(step), score=jnp.float32(score), metrics={"accuracy": jnp.float32(score)})
    saver.wait()
    assert (saver.steps(), saver.best()) == ([1, 3, 4], 1)
    with pytest.raises(ValueError, match="score=nan cannot be compared"):
        saver.save(make(5), score=float("nan"))


def test_a_score_that_comes_later_is_written_to_the_state(tmp_path):
    first = Checkpoints(tmp_path)
    first.save(make(4))
    first.wait()
    saver = Checkpoints(tmp_path)
    saver.save(saver.restore(make()), score=0.5, metrics={"accuracy": 0.5})
    assert saver.about(step="best")["metrics"] == {"accuracy": 0.5}
    same(Checkpoints(tmp_path).restore(make()), make(4))


def test_a_state_of_the_same_step_with_other_values_is_written(tmp_path):
    saver = Checkpoints(tmp_path)
    saver.save(make(4))
    other = make(4)._replace(params=jax.tree.map(lambda a: a + 1, make(4).params))
    saver.save(other, score=0.5)
    same(saver.restore(make()), other)
    assert saver.best() == 4
    wider = make(4, width=5)
    saver.save(wider)
    same(saver.restore(make(width=5)), wider)


def test_the_same_state_is_not_written_twice(tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path)
    saver.save(make(4))
    saver.wait()
    monkeypatch.setattr(arrays, "write_later", lambda *_: pytest.fail("it was written again"))
    saver.save(make(4))
    saver.save(make(4), score=0.5)
    assert saver.best() == 4
