import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl import optim
from jtl.params import flatten

PARAMS = {
    "backbone": {"stem": {"kernel": jnp.ones((2, 2))}, "block1": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
}
GRADS = jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape) + 1, PARAMS)


def moved(tx, steps=3):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_a_group_learns_as_with_an_optimizer_of_its_own():
    ours = moved(optax.chain(optax.adamw(1e-2, weight_decay=0.1), optim.scale([("head/.*", 0.1), (".*", 1.0)])))
    groups = jax.tree.map_with_path(lambda path, _: path[0].key, PARAMS)
    theirs = moved(
        optax.partition(
            {n: optax.adamw(lr, weight_decay=0.1) for n, lr in {"backbone": 1e-2, "head": 1e-3}.items()}, groups
        )
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_restart_is_a_second_run_of_the_optimizer():
    """Two, then three steps of a new Adam with a schedule, by hand; at the end of each the moments differ."""
    tx = optax.adam(lambda count: 0.1 / (count + 1))
    params = PARAMS
    for steps in (2, 3):
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(GRADS, state, params)
            params = optax.apply_updates(params, updates)
    found = moved(optim.restarted(tx, at=[2]), steps=5)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    plain = moved(tx, steps=5)
    assert not np.allclose(found["head"]["kernel"], plain["head"]["kernel"])
    told = optax.GradientTransformationExtraArgs(lambda params: (), lambda u, s, p=None, *, value: (value, s))
    wrapped = optim.restarted(told, at=[2])
    assert wrapped.update(GRADS, wrapped.init(PARAMS), PARAMS, value=7.0)[0] == 7.0, "as the loss of a line search"


@pytest.mark.parametrize("at", [[], [0], [3, 3]])
def test_restarts_that_cannot_be_are_named(at):
    with pytest.raises(ValueError, match="increasing steps"):
        optim.restarted(optax.sgd(0.1), at=at)


def test_a_factor_may_follow_the_step():
    tx = optax.chain(optax.sgd(1.0), optim.scale([(".*", lambda step: jnp.where(step < 2, 0.0, 1.0))]))
    jax.tree.map(lambda p, q, g: np.testing.assert_allclose(p, q - g), moved(tx), PARAMS, GRADS)
    low = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
    assert {u.dtype for u in jax.tree.leaves(tx.update(low, tx.init(low))[0])} == {jnp.dtype(jnp.bfloat16)}


def test_groups_must_match_all_and_each_something():
    with pytest.raises(ValueError, match="matched by no pattern"):
        optim.scale([("head/.*", 0.1)]).init(PARAMS)
    with pytest.raises(ValueError, match="matches no parameter"):
        optim.scale([("neck/.*", 0.1), (".*", 1.0)]).init(PARAMS)


def test_layer_decay_falls_by_its_rate_from_the_head_down():
    table = optim.layer_decay(PARAMS, ["backbone/stem/.*", "backbone/block1/.*", "head/.*"], 0.5)
    assert table == [("backbone/stem/.*", 0.25), ("backbone/block1/.*", 0.5), ("head/.*", 1.0)]
    assert optim.layer_decay(PARAMS, ["backbone/.*", "head/.*"], 1.0) == [("backbone/.*", 1.0), ("head/.*", 1.0)]
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"rate={bad}"):
            optim.layer_decay(PARAMS, [".*"], bad)
    with pytest.raises(ValueError, match="matched by no pattern"):
        optim.layer_decay(PARAMS, ["head/.*"], 0.5)


def test_norms_and_biases_do_not_decay():
    assert flatten(optim.decayed(PARAMS)) == {
        "backbone/stem/kernel": True, "backbone/block1/kernel": True, "backbone/block1/scale": False,
        "head/kernel": True, "head/bias": False,
    }  # fmt: skip
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    tx = optax.adamw(0.1, weight_decay=0.5, mask=optim.decayed)
    updates, _ = tx.update(zero, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05)
    np.testing.assert_array_equal(updates["backbone"]["block1"]["scale"], 0.0)


def test_an_annealed_rate_has_its_closed_form_and_holds_after_the_run():
    schedule = optim.annealed(0.3, 100, gain=4.0, power=0.5)
    np.testing.assert_allclose([schedule(50), schedule(100), schedule(900)], 0.3 / np.sqrt([3, 5, 5]), rtol=1e-6)


def test_warmup_rises_and_the_cosine_falls_to_zero():
    schedule = optim.warmup_cosine(0.3, 100, warmup=0.1)
    np.testing.assert_allclose(
        [schedule(0), schedule(5), schedule(10), schedule(55), schedule(100)], [0, 0.15, 0.3, 0.15, 0], atol=1e-6
    )
    np.testing.assert_allclose(optim.warmup_cosine(0.3, 100, warmup=0.0)(0), 0.3, rtol=1e-6)
    with pytest.raises(ValueError, match="warmup=1"):
        optim.warmup_cosine(0.3, 100, warmup=1)
    with pytest.raises(ValueError, match="total_steps=0"):
        optim.annealed(0.3, 0)


@pytest.mark.parametrize(("total", "rise"), [(10, 0.3), (100, 0.25), (57, 0.5)])
def test_one_cycle_is_torchs(total, rise):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total, pct_start=rise, div_factor=20, final_div_factor=50
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < total:
            scheduler.step()
    found = jax.jit(jax.vmap(optim.one_cycle(0.3, total, rise, 20, 50)))(jnp.arange(total))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert optim.one_cycle(0.3, total, rise, 20, 50)(3 * total) == found[-1], "the rate holds after the run"


def test_the_staircase_is_torchs():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 9, 11], 0.2)
    expected = []
    for _ in range(14):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rate = optim.steps(0.5, [4, 9, 11], 0.2)
    np.testing.assert_allclose([rate(i) for i in range(14)], expected, rtol=1e-5)
    rising = optim.steps(0.5, [4, 9, 11], 0.2, warmup=4)
    np.testing.assert_allclose([rising(i) for i in range(4)], [0, 0.125, 0.25, 0.375], rtol=1e-6)
    np.testing.assert_allclose([rising(i) for i in range(4, 14)], expected[4:], rtol=1e-5)


@pytest.mark.parametrize(
    ("examples", "total", "warmup", "lower", "mixup"),
    [
        (19_999, 500, 100, (200, 300, 400), 0.0),
        (20_000, 10_000, 500, (3000, 6000, 9000), 0.1),
        (499_999, 10_000, 500, (3000, 6000, 9000), 0.1),
        (500_000, 20_000, 500, (6000, 12_000, 18_000), 0.1),
    ],
)
def test_the_rule_of_bit_is_the_papers(examples, total, warmup, lower, mixup):
    rule = optim.bit_hyper_rule(examples, (95, 96))
    assert (rule.total_steps, rule.mixup, rule.resize, rule.crop) == (total, mixup, 160, 128)
    assert optim.bit_hyper_rule(examples, (96, 96))[3:] == (512, 480)
    np.testing.assert_allclose([rule.schedule(s) for s in (0, warmup // 2, warmup)], [0, 0.0015, 0.003], rtol=1e-5)
    for k, at in enumerate(lower):
        np.testing.assert_allclose(
            [rule.schedule(at), rule.schedule(at + 1)], [0.003 / 10**k, 0.0003 / 10**k], rtol=1e-5
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.one_cycle(1.0, 3, 0.3), "total_steps=3"),
        (lambda: optim.one_cycle(1.0, 100, 1.0), "rise=1.0"),
        (lambda: optim.steps(1.0, [3, 3]), "increasing steps"),
        (lambda: optim.steps(1.0, []), "increasing steps"),
        (lambda: optim.steps(1.0, [3], 1.0), "factor=1.0"),
        (lambda: optim.steps(1.0, [3], warmup=4), "warmup=4"),
        (lambda: optim.bit_hyper_rule(0, (32, 32)), "examples=0"),
    ],
)
def test_schedules_refuse_what_they_cannot_follow(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1])
def test_a_rate_that_is_none_is_named(rate):
    for make in (
        lambda: optim.annealed(rate, 10),
        lambda: optim.warmup_cosine(rate, 10),
        lambda: optim.one_cycle(rate, 10),
        lambda: optim.steps(rate, [5]),
    ):
        with pytest.raises(ValueError, match=f"learning_rate={rate}"):
            make()


@pytest.mark.parametrize("factor", [-1.0, float("nan"), "1", True])
def test_a_factor_that_is_none_is_named(factor):
    with pytest.raises(ValueError, match=r"the factor of 'head/\.\*' is"):
        optim.scale([("head/.*", factor), (".*", 1.0)])


def test_rates_and_factors_may_be_traced():
    found = jax.vmap(lambda rate: optim.annealed(rate, 10)(3))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(found, [optim.annealed(0.1, 10)(3), optim.annealed(0.2, 10)(3)], rtol=1e-6)

    def scaled(factor):
        tx = optim.scale([("w", factor)])
        return tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}), {"w": jnp.ones(1)})[0]["w"]

    np.testing.assert_array_equal(jax.vmap(scaled)(jnp.array([2.0, 3.0])), [[2.0], [3.0]])
