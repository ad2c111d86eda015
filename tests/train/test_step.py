import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, normed, parts, top

from jtl import model
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.networks import network, part
from jtl.params import flatten, select
from jtl.train.gradient import gradient
from jtl.train.microbatch import divide
from jtl.train.state import averaged
from jtl.train.step import make_step
from jtl.typing import Aux


def squares(params, stats, batch, key, step):
    """Half the squared norm: its gradient is the parameters themselves."""
    return 0.5 * sum((leaf**2).sum() for leaf in jax.tree.leaves(params)), Aux(stats, {})


def test_the_step_is_the_one_written_by_hand(key):
    rows = batch()
    net, _, variables = parts(key, rows["x"])
    step = make_step(finetune(net), optax.adam(1e-2))
    state, run = step.init(variables, key), jax.jit(step)

    def loss(params):
        hidden = rows["x"]
        for layer in params["backbone"].values():
            hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"][None])
        out = params["head"]["out"]
        logits = hidden @ out["kernel"] + out["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows["y"]).mean()

    params, tx = variables.params, optax.adam(1e-2)
    opt = tx.init(params)
    for _ in range(5):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        params = optax.apply_updates(params, updates)
        state, metrics = run(state, rows)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    # Two programs sum in two orders: float32 rounding, five times over, through adam's normalisation.
    assert largest_difference(state.params, params) < 1e-5
    assert int(state.step) == 5


def test_frozen_means_frozen_under_decay_and_clipping(key):
    rows = batch()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["x"])
    objective = finetune(net, frozen_stats=True)
    tx = optax.adamw(1e-2, weight_decay=0.1)
    step = make_step(objective, tx, trainable=select("head/.*"), clip=0.1)
    state, run = step.init(variables, key), jax.jit(step)
    optimizer_shapes = {leaf.shape for leaf in jax.tree.leaves(state.opt)}
    assert optimizer_shapes == {(), (8, 3), (3,)}, "optimizer state for the head alone"
    for _ in range(50):
        state, metrics = run(state, rows)
    assert np.isfinite(metrics["grad_norm"])
    before, after = flatten(variables.params), flatten(state.params)
    for path in before:
        same = np.array_equal(before[path], after[path])
        assert same == path.startswith("backbone/"), path
    jax.tree.map(np.testing.assert_array_equal, state.stats, variables.stats)


def test_a_head_only_step_costs_forward_plus_head(key):
    rows = batch(n=64, dim=256)
    net, _, variables = parts(key, rows["x"], widths=(256, 256, 256, 256), classes=10)
    objective = finetune(net, frozen_stats=True)
    flops = {}
    for name, pattern in {"head": "head/.*", "all": ".*"}.items():
        step = make_step(objective, optax.adamw(1e-3), trainable=select(pattern))
        state = step.init(variables, key)
        flops[name] = jax.jit(step).lower(state, rows).compile().cost_analysis()["flops"]
    forward = jax.jit(lambda v, x: net.parts["backbone"].apply(v, x, train=False)[0]["pooled"])
    below = forward.lower(part(variables, "backbone"), rows["x"]).compile().cost_analysis()["flops"]

    def top_alone(params, x):
        return jax.grad(lambda p: optax.softmax_cross_entropy_with_integer_labels(
            x @ p["kernel"] + p["bias"][None], rows["y"]).mean())(params)  # fmt: skip

    pooled = jnp.ones((64, 256))
    above = jax.jit(top_alone).lower(variables.params["head"]["out"], pooled).compile().cost_analysis()["flops"]
    assert flops["head"] <= 1.05 * (below + above)
    assert flops["all"] > 2.5 * flops["head"], "the bound means something: training everything costs three times"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("parts_of_batch", [2, 6])
def test_microbatches_add_up_to_the_batch(key, masked, parts_of_batch):
    rows = batch(masked=masked)
    if masked:
        rows["mask"][-10:] = False  # an uneven last batch, padded
    net, _, variables = parts(key, rows["x"])
    states = []
    for microbatch in (1, parts_of_batch):
        step = make_step(finetune(net), optax.sgd(0.5), microbatch=microbatch, clip=0.3)
        state, metrics = jax.jit(step)(step.init(variables, key), rows)
        states.append((state.params, metrics))
    assert largest_difference(*states) < 1e-6
    if masked:
        kept = {name: value[rows["mask"]] for name, value in rows.items()}
        step = make_step(finetune(net), optax.sgd(0.5), clip=0.3)
        alone, metrics = jax.jit(step)(step.init(variables, key), kept)
        assert largest_difference((alone.params, metrics), states[1]) < 1e-6


def test_terms_of_different_counts_add_up_too(key):
    rows = batch(masked=True) | {"other": np.arange(24) < 5}
    net, _, variables = parts(key, rows["x"])
    supervised = finetune(net)

    def objective(params, stats, batch, key, step):
        loss, aux = supervised(params, stats, batch, key, step)
        outputs = net.apply(model.Variables(params, stats), batch["x"], train=True)[0].read
        return {"ce": loss, "size": mean((outputs**2).sum(1), batch["other"]).scale(0.3)}, aux

    found = []
    for microbatch in (1, 4):
        step = make_step(objective, optax.sgd(0.5), microbatch=microbatch)
        state, metrics = jax.jit(step)(step.init(variables, key), rows)
        found.append((state.params, metrics))
    assert largest_difference(*found) < 1e-6


def test_counting_microbatches_costs_no_second_pass(key):
    rows = batch(n=64, dim=128)
    net, _, variables = parts(key, rows["x"], widths=(128, 128))
    flops = []
    for microbatch in (1, 4):
        step = make_step(finetune(net), optax.sgd(0.5), microbatch=microbatch)
        compiled = jax.jit(step).lower(step.init(variables, key), rows).compile()
        flops.append(compiled.cost_analysis()["flops"])
    # XLA counts the body of a scan once, so four microbatches must read as about a quarter of the batch.
    assert flops[1] < 0.4 * flops[0]


def test_an_uneven_division_is_refused_by_name(key):
    rows = batch(n=10)
    net, _, variables = parts(key, rows["x"])
    step = make_step(finetune(net), optax.sgd(0.5), microbatch=4)
    with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(10, 5\) does not divide into 4 microbatches"):
        step(step.init(variables, key), rows)


def test_a_part_takes_every_so_manyth_row():
    """Of each device's rows some are in each part, so none moves."""
    np.testing.assert_array_equal(divide({"x": np.arange(6)}, 2)["x"], [[0, 2, 4], [1, 3, 5]])


def test_bf16_computes_low_and_keeps_float32(key):
    rows = batch()
    net, _, variables = parts(key, rows["x"])
    seen = {}

    def loss(outputs, y):
        seen["outputs"] = outputs.dtype
        found = optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), y)
        seen["loss"] = found.dtype
        return found

    step = make_step(finetune(net, loss), optax.adam(1e-2), dtype=jnp.bfloat16)
    state, metrics = jax.jit(step)(step.init(variables, key), rows)
    assert seen == {"outputs": jnp.bfloat16, "loss": jnp.float32}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32
    full = make_step(finetune(net), optax.adam(1e-2))
    reference = jax.jit(full)(full.init(variables, key), rows)[1]["loss"]
    np.testing.assert_allclose(metrics["loss"], reference, rtol=2e-2)  # bfloat16 keeps 8 bits of the mantissa


def test_objectives_take_turns_in_one_program(key):
    params = {"a": {"w": jnp.asarray(2.0)}, "b": {"w": jnp.asarray(3.0)}}

    def first(params, stats, batch, key, step):  # pulls a towards b
        return (params["a"]["w"] - params["b"]["w"]) ** 2 / 2, Aux({"seen": stats["seen"] + 1}, {})

    def second(params, stats, batch, key, step):  # pulls b towards what a has become
        return (params["b"]["w"] - params["a"]["w"]) ** 2 / 2, Aux({"seen": stats["seen"] * 10}, {})

    step = make_step([first, second], [optax.sgd(0.5), optax.sgd(0.25)], trainable=[select("a/.*"), select("b/.*")])
    state = step.init(model.Variables(params, {"seen": jnp.asarray(1.0)}), key)
    state, metrics = jax.jit(step)(state, {"x": np.zeros(1)})
    assert float(state.params["a"]["w"]) == 2.5
    assert float(state.params["b"]["w"]) == 3.0 - 0.25 * (3.0 - 2.5)
    assert float(state.stats["seen"]) == 20.0
    np.testing.assert_allclose([metrics["0/loss"], metrics["1/loss"], metrics["loss"]], [0.5, 0.125, 0.625])


def test_moving_average_has_its_closed_form(key):
    start = {"w": {"a": jnp.asarray(1.0), "b": jnp.asarray(7.0)}}
    step = make_step(squares, optax.sgd(0.5), ema=0.9, trainable=select("w/a"))
    state = step.init(model.Variables(start, {}), key)
    for _ in range(3):
        state, _ = jax.jit(step)(state, {"x": np.zeros(1)})
    expected, value = 1.0, 1.0
    for _ in range(3):
        value *= 0.5
        expected = 0.9 * expected + 0.1 * value
    np.testing.assert_allclose(averaged(state)["w"]["a"], expected, rtol=1e-6)
    assert list(flatten(state.ema)) == ["w/a"]
    assert float(averaged(state)["w"]["b"]) == 7.0


def test_the_average_of_bfloat16_parameters_follows_them(key):
    """A step of 1e-3 towards the parameters is less than bfloat16 resolves near 1: the average would stand still."""
    step = make_step(squares, optax.sgd(0.0), ema=0.999)
    state = step.init(model.Variables({"w": jnp.ones((), jnp.bfloat16)}, {}), key)
    state = state._replace(params={"w": jnp.full((), 2.0, jnp.bfloat16)})
    run = jax.jit(step)
    for _ in range(100):
        state, _ = run(state, {"x": np.zeros(1)})
    np.testing.assert_allclose(state.ema["w"], 2 - 0.999**100, rtol=1e-5)  # a hundred roundings of float32
    assert averaged(state)["w"].dtype == state.params["w"].dtype == jnp.bfloat16


def test_gradients_of_bfloat16_parts_add_up_in_float32(key):
    """Of 1 and 128 times 1/256, in this order, bfloat16 keeps only the 1: each small one is less than half a digit."""

    def linear(params, stats, batch, key, step):
        return (params["w"] * batch["x"].astype(params["w"].dtype)).sum() * 129, Aux(stats, {})

    step = make_step(linear, optax.sgd(1.0), microbatch=129)
    x = np.array([1.0] + [1 / 256] * 128, np.float32)
    state, _ = jax.jit(step)(step.init(model.Variables({"w": jnp.zeros((), jnp.bfloat16)}, {}), key), {"x": x})
    assert float(state.params["w"]) == -1.5
    assert state.params["w"].dtype == jnp.bfloat16


def test_each_microbatch_draws_its_own_and_gradients_have_the_types_of_parameters(key):
    def noisy(params, stats, batch, key):
        drawn = jax.random.normal(key, ())
        return params["w"] * drawn, Aux(stats, {"drawn": mean(drawn), "square": mean(drawn**2)})

    grads, _, _, found = gradient(noisy, {"w": jnp.ones((), jnp.bfloat16)}, {}, {"x": np.zeros(4)}, key, 4)
    assert found["square"].value > found["drawn"].value ** 2 + 0.01
    assert grads["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(grads["w"].astype(jnp.float32), found["drawn"].value, rtol=0.03)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_norm_beyond_half_precision_is_clipped_all_the_same(key, dtype):
    start = {"w": jnp.asarray([300.0, 400.0], dtype)}
    step = make_step(squares, optax.sgd(1.0), clip=100.0)
    state, metrics = step(step.init(model.Variables(start, {}), key), {"x": np.zeros(1)})
    assert float(metrics["grad_norm"]) == 500.0
    np.testing.assert_array_equal(state.params["w"].astype(jnp.float32), [300.0 - 60.0, 400.0 - 80.0])


def test_clipping_scales_the_gradient_to_its_norm(key):
    start = {"w": jnp.asarray([3.0, 4.0])}
    step = make_step(squares, optax.sgd(1.0), clip=1.0)
    state, metrics = step(step.init(model.Variables(start, {}), key), {"x": np.zeros(1)})
    np.testing.assert_allclose(state.params["w"], [3.0 - 0.6, 4.0 - 0.8], rtol=1e-6)
    assert float(metrics["grad_norm"]) == 5.0


@pytest.mark.parametrize("tx", [optax.sgd(0.1), optax.scale_by_lbfgs()], ids=["sgd", "one array kept twice"])
def test_a_donated_state_leaves_its_callers_arrays_alive(key, tx):
    variables = model.Variables({"w": jnp.ones(3)}, {"s": jnp.ones(2)})
    step = make_step(squares, tx)
    state = step.init(variables, key)
    jax.block_until_ready(jax.jit(step, donate_argnums=0)(state, {"x": np.zeros(1)}))
    assert state.params["w"].is_deleted()
    assert float(variables.params["w"].sum() + variables.stats["s"].sum()) == 5.0
    assert jax.random.key_data(key).shape == (2,)


def test_randomness_is_a_function_of_the_step(key):
    def noisy(params, stats, batch, key, step):
        return (params["w"] * jax.random.normal(key, ())), Aux(stats, {})

    step = make_step(noisy, optax.sgd(1.0))
    state = step.init(model.Variables({"w": jnp.asarray(0.0)}, {}), key)
    one, _ = step(state, {"x": np.zeros(1)})
    two, _ = step(one, {"x": np.zeros(1)})
    again, _ = step(one._replace(params=state.params), {"x": np.zeros(1)})
    assert float(two.params["w"] - one.params["w"]) == pytest.approx(float(again.params["w"]), rel=1e-6)
    assert float(again.params["w"]) != float(one.params["w"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatch": 0}, "microbatch=0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"clip": float("inf")}, "clip=inf"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"trainable": [select("a"), select("b")]}, "1 optimizers, 2 masks"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_step(squares, optax.sgd(0.1), **options)


@pytest.mark.parametrize("changed", [{}, {"seen": jnp.zeros(3)}, {"seen": jnp.zeros((), jnp.int32)}])
def test_statistics_come_back_as_the_tree_they_were(key, changed):
    def objective(params, stats, batch, key, step):
        return squares(params, stats, batch, key, step)[0], Aux(changed, {})

    step = make_step(objective, optax.sgd(0.1))
    state = step.init(model.Variables({"w": jnp.ones(2)}, {"seen": jnp.zeros(())}), key)
    with pytest.raises(AssertionError, match="statistics of an objective"):
        step(state, {"x": jnp.zeros((1, 1))})


def test_statistics_of_a_weak_type_are_traced_once(key):
    traces = []

    def loss(params, stats, batch, key, step):
        traces.append(step)
        return (params["w"] * batch["x"]).sum(), Aux({"n": stats["n"] + batch["x"].sum()})

    step = make_step(loss, optax.sgd(0.1))
    state = step.init(Variables({"w": jnp.ones(2)}, {"n": jnp.full((), 1.0)}), key)  # without a type, as 1.0 has none
    taken = jax.jit(step)
    for _ in range(2):
        state, _ = taken(state, {"x": jnp.ones(2)})
    assert taken._cache_size() == 1
    assert state.stats["n"] == 5.0
