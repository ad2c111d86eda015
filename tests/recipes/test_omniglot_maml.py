"""The recipe of MAML on Omniglot, on made-up characters."""

import jax
import numpy as np
import pytest

from jtl.recipes import omniglot_maml


@pytest.mark.parametrize(("asked", "batch"), [(600, 20), (39, 13), (7, 7), (23, 1)])
def test_so_many_tasks_are_judged_as_are_asked_for(monkeypatch, asked, batch):
    seen = []

    def counted(objective, variables, data, key):
        seen.append((len(data), jax.eval_shape(lambda: data[0])["query"]["y"].shape[0]))
        return {"accuracy": 0.5}

    monkeypatch.setattr(omniglot_maml, "evaluate", counted)
    monkeypatch.setattr(omniglot_maml.Recipe, "_characters", lambda self: 3 * [np.zeros((6, 20, 4, 4, 1), np.float32)])
    recipe = omniglot_maml.Recipe(test_tasks=asked)
    assert recipe.evaluate(recipe.network().variables) == {"transductive": 0.5, "inductive": 0.5}
    assert seen == 2 * [(asked // batch, batch)]
