"""Estimates against scipy, and accuracies after each inner step against adapting with so many steps."""

import jax
import numpy as np
import pytest
from few_shot import few_shot
from nets import normed, top

from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import meta
from jtl.methods.meta.over_episodes import estimate, over_episodes
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.update_rules import fixed_rate
from jtl.networks import network
from jtl.objective import Objective

pytestmark = pytest.mark.whole


def test_the_interval_is_scipys():
    from scipy import stats

    values = np.random.default_rng(0).random((50, 2))
    found = estimate(values)
    low, high = stats.norm.interval(0.95, loc=values.mean(0), scale=stats.sem(values))
    np.testing.assert_allclose(found.mean - found.interval, low, rtol=1e-4)
    np.testing.assert_allclose(found.mean + found.interval, high, rtol=1e-4)
    assert found.episodes == 50


def test_after_each_step_it_is_that_many_steps(key):
    data = [few_shot(seed=seed) for seed in (0, 100)]
    net = network(backbone=normed(8), head=top(3))
    inner = finetune(net)
    variables = net.init(key, data[0]["support"]["x"][0])
    judges = {"transductive": inner, "inductive": evaluation(net)}
    found = over_episodes(adapt_to(inner, fixed_rate(0.5), steps=2), judges, variables, data, metric="loss")
    for mode, judge in judges.items():
        assert found[mode].mean.shape == found[mode].interval.shape == (3,)
        assert found[mode].episodes == 8
        for k in (0, 2):
            # No step but with the statistics of a pass over the support set: a step at a rate of 0.
            adapt = adapt_to(inner, fixed_rate(0.5 if k else 0.0), steps=max(k, 1))
            outputs = [meta(adapt, judge)(*variables, rows, key, 0)[1].outputs["loss"] for rows in data]
            expected = estimate(np.concatenate(outputs))
            np.testing.assert_allclose(found[mode].mean[k], expected.mean, rtol=1e-5)
            np.testing.assert_allclose(found[mode].interval[k], expected.interval, rtol=1e-4)
    assert abs(found["transductive"].mean[2] - found["inductive"].mean[2]) > 1e-4


def test_a_closed_form_has_one_entry(key):
    data = [few_shot()]
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, data[0]["support"]["x"][0])
    found = over_episodes(prototypes(net), {"inductive": evaluation(net)}, variables, data, spread="scan")["inductive"]
    outputs = meta(prototypes(net), evaluation(net))(*variables, data[0], key, 0)[1].outputs["accuracy"]
    np.testing.assert_allclose(found.mean, [np.mean(outputs)], rtol=1e-6)


def test_a_second_call_compiles_nothing(key):
    """With the same adaptation and judge, of other variables, data and key; another metric is another program."""
    net = network(backbone=normed(8), head=top(3))
    traces = []

    def counted(params, stats, batch, key, step):
        traces.append(None)
        return evaluation(net)(params, stats, batch, key, step)

    adapt = adapt_to(finetune(net), fixed_rate(0.1), steps=1)
    judge, counts = {"inductive": Objective(counted, lambda *args: None)}, []
    for seed in (0, 100):
        data = [few_shot(seed=seed), few_shot(seed=seed + 50)]
        variables = net.init(jax.random.key(seed), data[0]["support"]["x"][0])
        found = over_episodes(adapt, judge, variables, data, key=jax.random.key(seed))["inductive"].mean[-1]
        outputs = [meta(adapt, evaluation(net))(*variables, rows, key, 0)[1].outputs["accuracy"] for rows in data]
        np.testing.assert_allclose(found, np.mean(outputs), rtol=1e-6)
        counts.append(len(traces))
    assert counts[0] == counts[1]
    over_episodes(adapt, judge, variables, data, metric="loss")
    assert len(traces) > counts[1]


def test_the_next_batch_is_made_before_a_result_is_read(key, monkeypatch):
    net, told, get = network(backbone=normed(8), head=top(3)), [], jax.device_get

    class Told(list):
        def __getitem__(self, i):
            told.append(i)
            return super().__getitem__(i)

    data = [few_shot(seed=seed) for seed in range(3)]
    variables = net.init(key, data[0]["support"]["x"][0])
    monkeypatch.setattr(jax, "device_get", lambda found: told.append("read") or get(found))
    found = over_episodes(prototypes(net), {"inductive": evaluation(net)}, variables, Told(data))["inductive"]
    assert told == [0, 1, "read", 2, "read", "read"]
    assert found.episodes == sum(len(batch["support"]["y"]) for batch in data)


def test_bad_arguments_are_refused(key):
    data = [few_shot(tasks=1)]
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, data[0]["support"]["x"][0])
    judge = {"inductive": evaluation(net)}
    with pytest.raises(ValueError, match="1 episodes: an interval needs two"):
        over_episodes(prototypes(net), judge, variables, data)
    with pytest.raises(ValueError, match="metric='f1': the judge 'inductive' gives"):
        over_episodes(prototypes(net), judge, variables, data, metric="f1")
    with pytest.raises(ValueError, match="no judges"):
        over_episodes(prototypes(net), {}, variables, data)
    with pytest.raises(ValueError, match="empty"):
        over_episodes(prototypes(net), judge, variables, [])
