"""SWAD against the paper's rule on whole loss curves, against the authors' way through them, and in runs of `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, parts

from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Variables
from jtl.params import select
from jtl.train.average import Average, average_start
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.checkpoint.identity import AnotherRun
from jtl.train.loop import fit
from jtl.train.loss_valley import ValleyRule, valley_add, valley_average, valley_start
from jtl.train.parallel.sharding import mesh
from jtl.train.step import make_step
from jtl.train.swad import swad
from jtl.typing import Aux

ONE = mesh(devices=jax.devices()[:1])
EVERY = 2
"""Steps between validations, of the curves below."""


def curves(number):
    """Losses that fall, stay and rise, with noise; (N_s, N_e) from (1, 1) to (4, 5)."""
    draw = np.random.default_rng(0)
    for i in range(number):
        falling, level = draw.integers(1, 4), draw.integers(2, 9)
        shape = np.concatenate([np.linspace(3, 1, falling), np.ones(level), np.linspace(1, 4, 4)])
        shape = {7: 0.5 ** np.arange(4), 8: np.array([1.0] + [9] * 6)}.get(i % 12, shape)
        rule = ValleyRule(1 + i % 4, 1 + i // 4 % 5, 1.0 + 0.4 * draw.random())
        yield (shape * np.exp(draw.normal(0, 0.2, len(shape)))).astype(np.float32).tolist(), rule


def by_the_paper(losses, rule):
    """t_s and t_e by the numbers of validations, from 0; None if no window begins with its least. Of a whole curve."""
    n, m = rule.optimum, rule.overfit
    starts = [i - n + 1 for i in range(n - 1, len(losses)) if losses[i - n + 1] == min(losses[i - n + 1 : i + 1])]
    if not starts:
        return None
    start, threshold = starts[0], rule.tolerance * np.mean(losses[starts[0] : starts[0] + n])
    for j in range(start + n, len(losses)):
        if j - m + 1 > start and min(losses[j - m + 1 : j + 1]) > threshold:
            return start, j - m
    return start, max(i for i in range(start, len(losses)) if losses[i] <= threshold or i <= start + n - m)


def by_the_authors(losses, rule):
    """The numbers of the segments that their average is made of, with repetitions, and the validation of the start."""
    window, smooth, models, threshold, start = [], [], [], 0.0, None
    for i in range(len(losses)):
        window, smooth = [*window, i][-rule.optimum :], [*smooth, i][-rule.overfit :]
        if start is None:
            if len(window) < rule.optimum or np.argmin([losses[k] for k in window]) != 0:
                continue
            start = window[0]
            threshold = np.mean([losses[k] for k in window]) * rule.tolerance
            if rule.overfit <= rule.optimum:
                models += window[1 : 1 + rule.optimum - rule.overfit]
            else:
                early = smooth[: rule.overfit - rule.optimum + 1]
                over = [k for k, which in enumerate(early) if losses[which] > threshold]
                models += early[(over[-1] + 1 if over else 0) + 1 :]
        elif smooth[0] >= start:
            if min(losses[k] for k in smooth) > threshold:
                return models or [start], start
            models.append(smooth[0])
    if start is None:
        return None
    rest = smooth[1:]
    while rest and min(losses[k] for k in rest) <= threshold:
        models.append(rest.pop(0))
    return models or [start], start


def through(losses, rule):
    """The average of weights that are the numbers of their segments, and of random ones, as found step by step."""
    weights = np.random.default_rng(1).normal(size=(len(losses), EVERY)).astype(np.float32)
    zero = {"w": jnp.zeros(2)}
    valley = valley_start(zero, rule)
    for i, loss in enumerate(losses):
        segment = Average(jnp.array(EVERY), {"w": jnp.array([weights[i].mean(), i])})
        valley = valley_add(valley, segment, loss, EVERY * (i + 1), rule)
    return valley, weights


def test_start_end_and_average_are_those_of_the_paper_and_of_the_authors():
    seen = {"none": 0, "ended": 0, "open": 0, "alone": 0, "early": 0}
    for losses, rule in curves(30):
        valley, weights = through(losses, rule)
        wanted, authors = by_the_paper(losses, rule), by_the_authors(losses, rule)
        if wanted is None or authors is None:
            assert wanted is authors
            seen["none"] += 1
            with pytest.raises(ValueError, match=f"found no start in {len(losses)} validations"):
                valley_average(valley)
            continue
        average, start, end = valley_average(valley)
        assert (start, end) == tuple(EVERY * (i + 1) for i in wanted)
        segments = range(wanted[0] + 1, wanted[1] + 1) or [wanted[0]]
        assert int(average.taken) == EVERY * len(segments)
        expected = [weights[list(segments)].mean(), np.mean(segments)]
        np.testing.assert_allclose(average.mean["w"], expected, rtol=1e-5, atol=1e-6)
        seen["ended" if bool(valley.over) else "open"] += 1
        seen["alone"] += wanted[0] == wanted[1]
        models, first = authors
        assert first == wanted[0]
        if rule.overfit <= rule.optimum:
            assert sorted(models) == list(segments)
        elif first + rule.optimum >= rule.overfit and max(models) > first:
            # What the docstring says: weights before the start count too, and those of its validation twice.
            assert sorted(k for k in models if k > first) == list(segments)
            seen["early"] += min(models) < first and models.count(first) == 2
    assert min(seen.values()) > 0, seen


def test_averages_of_float64_keep_their_digits():
    with jax.enable_x64(True):
        rule = ValleyRule(1, 9, 2.0)
        valley = valley_start({"w": jnp.zeros(())}, rule)
        for step, (taken, weight) in enumerate([(1, 5.0), (1, 1.0), (2, 0.0)], 1):
            segment = Average(jnp.array(taken, jnp.int32), {"w": jnp.array(weight)})
            valley = valley_add(valley, segment, 1.0, step, rule)
        np.testing.assert_allclose(valley_average(valley)[0].mean["w"], 1 / 3, rtol=1e-15)


class Rows:
    def __len__(self):
        return 4

    def __getitem__(self, step):
        return batch(n=16, seed=step)


LOSSES = [3.0, 2.0, 1.0, 1.2, 1.1, 2.5, 1.0, 2.5, 2.6, 0.1, 0.2]
"""The validation losses after 3, 6, ... steps, and after 31, the last."""


def walk(params, stats, batch, key, step):
    """The gradient is 1, so that the weight after t steps is -t with a rate of 1."""
    return params["w"] + 0 * params["fixed"].sum(), Aux(stats)


def told(params, stats, batch, key, step):
    return jnp.array([9.0, *LOSSES])[((2 - params["w"]) // 3).astype(int)], Aux(stats)


def begun(key, tx=None, **numbers):
    averaging = swad(told, Rows(), every=3, **{"optimum": 2, "overfit": 2, **numbers})
    step = make_step(walk, averaging.optimizer(optax.sgd(1.0) if tx is None else tx), trainable=select("w"))
    return averaging, step, step.init(Variables({"w": jnp.zeros(()), "fixed": jnp.ones(2)}, {}), key)


def taken(key, steps, tmp_path=None, **numbers):
    averaging, step, state = begun(key, **numbers)
    checkpoints = None if tmp_path is None else Checkpoints(tmp_path)
    options = {"mesh": ONE, "refresh": averaging.refresh, "checkpoints": checkpoints, "progress": False}
    return averaging, fit(step, state, Rows(), steps=steps, **options).state


def test_a_run_averages_the_weights_of_every_step_of_the_valley(key):
    """The start is the third validation, after step 9; 2.5 and 2.6 are the first two in a row above 1.3 times 1.1."""
    averaging, state = taken(key, 31)
    variables, start, end = averaging.finish(state)
    assert (start, end) == (9, 21)
    np.testing.assert_allclose(variables.params["w"], -np.arange(10, 22).mean(), rtol=1e-6)
    np.testing.assert_array_equal(variables.params["fixed"], 1)
    assert float(state.params["w"]) == -31  # the run is that without an average
    averaging, step, own = begun(key, optimum=1)
    run = jax.jit(step, donate_argnums=0)
    for number in range(8):
        own = averaging.refresh.run(own) if number % 3 == 0 else own
        own, _ = run(own, Rows()[number])
    assert averaging.finish(own)[1:] == (3, 8)
    assert run._cache_size() == 1
    averaging, state = taken(key, 31, overfit=6)
    variables, start, end = averaging.finish(state)  # the last three steps belong to it, and the 31st alone too
    assert (start, end) == (9, 31)
    np.testing.assert_allclose(variables.params["w"], -np.arange(10, 32).mean(), rtol=1e-6)


def test_a_resumed_run_ends_with_the_same_bits_and_another_rule_is_refused(key, tmp_path):
    averaging, whole = taken(key, 25)
    for at in (10, 21):  # between validations, and where one is due
        taken(key, at, tmp_path)
        if at == 10:
            with pytest.raises(AnotherRun, match="tolerance"):
                taken(key, 21, tmp_path, tolerance=1.4)
    _, found = taken(key, 25, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found._replace(key=0), whole._replace(key=0))
    assert float(averaging.finish(found).variables.params["w"]) == -15.5


def test_a_network_on_eight_devices_is_averaged_as_by_hand(key):
    net, _, variables = parts(key, batch()["x"], widths=(8,))
    averaging = swad(evaluation(net), Rows(), every=2, optimum=1, tolerance=100.0)
    step, plain = (
        make_step(finetune(net), tx, trainable=select("head/.*"), clip=0.1)
        for tx in (averaging.optimizer(optax.adam(0.1)), optax.adam(0.1))
    )
    state = fit(step, step.init(variables, key), Rows(), steps=6, refresh=averaging.refresh, progress=False).state
    found, start, end = averaging.finish(state)
    assert (start, end) == (2, 6)
    now, run, heads = plain.init(variables, key), jax.jit(plain), []
    for number in range(6):
        now, _ = run(now, Rows()[number])
        heads.append(now.params["head"])
    wanted = jax.tree.map(lambda *each: sum(each[2:]) / 4, *heads)
    assert largest_difference(found.params["head"], wanted) < 1e-6
    assert largest_difference(found.params["head"], heads[-1]) > 1e-3
    jax.tree.map(np.testing.assert_array_equal, found.params["backbone"], variables.params["backbone"])


@pytest.mark.parametrize(
    "tx", [optax.lbfgs(0.1, linesearch=None), optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1), opaque_mode=True)],
    ids=["lbfgs", "sam"],
)  # fmt: skip
def test_optimizers_with_more_arguments_get_them(key, tx):
    def bowl(params, stats, batch, key, step):
        return (params["w"] - 3) ** 2, Aux(stats)

    averaging, start = swad(told, Rows(), every=3), Variables({"w": jnp.zeros(())}, {})
    steps = [make_step(bowl, one) for one in (tx, averaging.optimizer(tx))]
    after = [jax.jit(step)(step.init(start, key), Rows()[0])[0].params["w"] for step in steps]
    assert after[0] == after[1] != 0


def test_what_does_not_fit_is_refused(key):
    refused = {"every": (0, True), "optimum": (0, True), "overfit": (0,), "tolerance": (0.9, float("nan"))}
    for name, value in ((name, value) for name, values in refused.items() for value in values):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            swad(told, Rows(), **{"every": 2, name: value})
    averaging, _, state = begun(key)
    with pytest.raises(TypeError, match="adam"):
        averaging.optimizer("adam")
    with pytest.raises(ValueError, match="schedule_free trains at y"):
        begun(key, optax.chain(optax.clip(1.0), optax.contrib.schedule_free_sgd(0.1)))
    with pytest.raises(ValueError, match="found no start in 0 validations"):
        averaging.finish(state)
    for tx in (optax.sgd(1.0), optax.chain(averaging.optimizer(optax.sgd(1.0)))):
        step = make_step(walk, tx)
        with pytest.raises(ValueError, match=r"0 of 1 optimizers are from swad\(\.\.\.\)\.optimizer"):
            averaging.refresh.run(step.init(Variables(state.params, {}), key))
    rule, one = ValleyRule(2, 2, 1.3), Average(jnp.array(1), {"w": jnp.ones(())})
    valley = valley_start(one.mean, rule)
    for loss in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"the validation loss of step 3 is {loss}"):
            valley_add(valley, one, loss, 3, rule)
    with pytest.raises(ValueError, match=r"no weights were averaged between step 0, .* and step 3"):
        valley_add(valley, average_start(one.mean), 1.0, 3, rule)
    with pytest.raises(ValueError, match="between step 3"):
        valley_add(valley_add(valley, one, 1.0, 3, rule), one, 1.0, 3, rule)
