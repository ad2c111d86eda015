"""However tasks are spread, values and derivatives are the same; what each way compiles to."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, quadratic, quadratic_tasks
from nets import largest_difference, normed, top

from jtl import ops
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import maml, meta
from jtl.methods.meta.reptile import reptile
from jtl.methods.meta.spread import over_tasks
from jtl.methods.meta.update_rules import fixed_rate, learned_rate
from jtl.metrics.accumulate import Sums, total
from jtl.networks import network
from jtl.params import select
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step
from jtl.typing import Aux

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def case():
    """Sixteen tasks in float64, a network with BatchNorm, its variables with learned rates."""
    key = jax.random.key(0)
    with jax.enable_x64(True):
        rows = jax.tree.map(lambda a: jnp.asarray(a, np.promote_types(a.dtype, np.int64)), few_shot(tasks=16))
        inner = finetune(network(backbone=normed(4), head=top(3)))
        adapt = adapt_to(inner, learned_rate(0.1), steps=1)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), meta(adapt, inner).init(key, rows))
    return inner, adapt, variables, rows, key


def derivative(objective, case):
    """Loss, gradient and metrics, compiled."""
    _, _, (params, stats), _, key = case

    def value(params, rows):
        loss, aux = objective(params, stats, rows, key, 0)
        return total(loss), (aux.metrics["accuracy"].value, aux.outputs["loss"])

    return jax.jit(lambda rows: jax.value_and_grad(value, has_aux=True)(params, rows))


def test_values_and_gradients_are_the_same(case):
    """One by one, and by default on eight devices, as side by side; in float64."""
    inner, adapt, _, rows, _ = case
    with jax.enable_x64(True):
        expected = derivative(meta(adapt, inner, spread="vmap"), case)(rows)
        ways: Any = (("scan", rows), (None, put_batch(rows, mesh())))
        for spread, given in ways:
            found = derivative(meta(adapt, inner, spread=spread), case)(given)
            assert largest_difference(found, expected) < 1e-12, spread


def test_the_order_of_tasks_does_not_matter(case):
    inner, adapt, _, rows, _ = case
    with jax.enable_x64(True):
        run = derivative(meta(adapt, inner), case)
        (value, (_, each)), grads = run(rows)
        (other, (_, reversed_)), backwards = run(jax.tree.map(lambda a: a[::-1], rows))
        assert largest_difference((value, grads), (other, backwards)) < 1e-12
        np.testing.assert_allclose(each, reversed_[::-1], rtol=1e-12)


def test_under_pmap_each_device_scans_its_own_tasks(key):
    """Three tasks on each of two devices: the gradient of each device is that of its three alone."""
    rows, theta = quadratic_tasks(tasks=6)
    objective = meta(adapt_to(quadratic, fixed_rate(0.1), steps=2), quadratic, spread="scan")
    with jax.enable_x64(True):

        def gradient(rows):
            return jax.grad(lambda w: total(objective({"w": w}, {}, rows, key, 0)[0]))(jnp.asarray(theta))

        halves = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), rows)
        found = jax.pmap(gradient, axis_name=ops.BATCH_AXIS)(halves)
        for i in range(2):
            expected = jax.jit(gradient)(jax.tree.map(lambda a, i=i: a[i], halves))
            np.testing.assert_allclose(found[i], expected, rtol=1e-12)


def test_every_derivative_of_a_scan_is_that_of_all_at_once(key):
    """By a part of the parameters, by inputs, forwards, of a compiled function, twice, and under vmap."""
    rows, theta = quadratic_tasks()

    def scaled(params, stats, batch, key, step):
        return quadratic({"w": jnp.sin(params["w"] * params["slow"])}, stats, batch, key, step)

    def derivatives(spread, params, rows):
        objective = meta(adapt_to(scaled, fixed_rate(0.1), steps=2, adapted=select("w")), scaled, spread=spread)

        def loss(params, rows):
            return total(objective(params, {}, rows, key, 0)[0])

        def of_b(b):
            return loss(params, {**rows, "support": {**rows["support"], "b": b}})

        along = jax.tree.map(jnp.ones_like, params)
        yield jax.grad(lambda slow: loss({**params, "slow": slow}, rows))(params["slow"])
        yield jax.grad(of_b)(rows["support"]["b"])
        yield jax.grad(jax.jit(lambda p: loss(p, rows)))(params)
        yield jax.jvp(jax.grad(lambda p: loss(p, rows)), (params,), (along,))
        yield jax.vmap(jax.grad(lambda s: loss({**params, "slow": s}, rows)))(jnp.array([1.0, 0.5]))

    with jax.enable_x64(True):
        given = ({"w": jnp.asarray(theta), "slow": jnp.asarray(0.7)}, jax.tree.map(jnp.asarray, rows))
        one, two = (jax.jit(lambda *a, s=s: list(derivatives(s, *a)))(*given) for s in ("scan", "vmap"))
        assert largest_difference(one, two) < 1e-12


def test_chunks_with_a_rest_are_the_same_too(key):
    """Sixteen tasks, five at a time; and on two devices, of eight each, three at a time, with a rest of two."""
    rows, theta = quadratic_tasks(tasks=16)

    def gradient(spread, rows):
        objective = meta(adapt_to(quadratic, fixed_rate(0.1), steps=2), quadratic, spread=spread)
        loss = jax.jit(jax.grad(lambda w: total(objective({"w": w}, {}, rows, key, 0)[0])))
        return loss(jnp.asarray(theta))

    with jax.enable_x64(True):
        rows = jax.tree.map(jnp.asarray, rows)
        expected = gradient("vmap", rows)
        for spread, given in ((5, rows), (3, put_batch(rows, mesh(devices=jax.devices()[:2])))):
            np.testing.assert_allclose(gradient(spread, given), expected, rtol=1e-12)


def test_several_losses_have_their_own_gradients():
    """∂/∂w (3 Σ_t a_t w + 2 mean_t w²) of losses by name that are weighed after the scan."""
    batch = {"support": {"a": jnp.array([1.0, 2.0, 4.0])}, "query": {"b": jnp.zeros(3)}}

    def task(w, support, query, i):
        return {"linear": support["a"] * w, "square": w**2}, {"i": i}

    def value(w, spread):
        losses, each, found = over_tasks(task, w, batch, spread)
        return 3 * losses["linear"].total + 2 * losses["square"].value, (each["linear"], found["i"])

    for spread in ("scan", "vmap", 2):
        slope, (each, places) = jax.grad(value, has_aux=True)(5.0, spread)
        assert float(slope) == 3 * 7 + 2 * 2 * 5
        np.testing.assert_array_equal(each, [5, 10, 20])
        np.testing.assert_array_equal(places, [0, 1, 2])


def test_small_gradients_add_up_in_half_precision():
    """256 and sixteen times 1: rounded to bfloat16 after each addition, the ones would be lost."""
    batch = {"support": {"a": jnp.append(256.0, jnp.ones(16))}, "query": {"b": jnp.zeros(17)}}

    def value(w):
        def task(w, support, query, i):
            return {"loss": w.astype(jnp.float32) * support["a"]}, {}

        return over_tasks(task, w, batch, "scan")[0]["loss"].total

    slope = jax.grad(value)(jnp.ones((), jnp.bfloat16))
    assert slope.dtype == jnp.bfloat16
    assert float(slope) == 272


def test_one_reduction_a_step_over_eight_devices(case):
    """The all-reduces carry θ, φ and a few numbers once, and none stands in the loop over a device's tasks."""
    inner, adapt, variables, rows, key = case
    rows = few_shot(tasks=16)
    variables = jax.tree.map(lambda a: a.astype(jnp.float32), variables)
    own = sum(4 * leaf.size for leaf in jax.tree.leaves(variables.params))
    for spread in ("scan", "vmap"):
        step = make_step(meta(adapt, inner, spread=spread), optax.sgd(0.1))
        run, state = jit_step(step, step.init(variables, key), mesh())
        program: Any = run
        text = program.lower(state, put_batch(rows, mesh())).compile().as_text()
        assert own <= reduced(text) <= own + 64
        entry = text[text.index("\nENTRY") :]
        assert reduced(entry) == reduced(text), "none in a loop's body"
        assert not re.search(r" (all-gather|all-to-all|collective-permute)(-start)?\(", text), "no task moves"


def reduced(text):
    """Bytes that the all-reduces of a program carry."""
    found, size = 0, {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
    for line in text.splitlines():
        head = re.match(r"\s*(?:ROOT )?\S+ = (.*?) all-reduce(?:-start)?\(", line)
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", head[1] if head else ""):
            found += size[kind] * int(np.prod([int(d) for d in dims.split(",") if d] or [1]))
    return found


def test_a_scan_needs_the_memory_of_one_task(key):
    """Temporaries of sixteen tasks' gradient: side by side they grow with the tasks, in a scan they do not."""
    net = network(backbone=normed(32), head=top(3))
    objective = {s: maml(finetune(net), fixed_rate(0.1), steps=3, spread=s) for s in ("scan", "vmap")}
    used = {}
    for tasks in (2, 16):
        rows = few_shot(tasks=tasks, shot=30, query=30)
        params, stats = objective["scan"].init(key, rows)
        for spread, one in objective.items():
            slope = jax.jit(jax.grad(lambda p, s, rows, one=one: total(one(p, s, rows, key, 0)[0])))
            found: Any = slope.lower(params, stats, rows).compile().memory_analysis()
            used[spread, tasks] = found.temp_size_in_bytes
    assert used["scan", 16] < 1.2 * used["scan", 2]
    assert used["vmap", 16] > 4 * used["vmap", 2] > 4 * used["scan", 2]


def test_reptile_and_evaluation_are_spread_too(case):
    _, adapt, (params, stats), rows, key = case
    with jax.enable_x64(True):
        ways: Any = ("scan", 4, "vmap")
        grads = [
            jax.jit(jax.grad(lambda p, s=s: total(reptile(adapt, spread=s)(p, stats, rows, key, 0)[0])))(params)
            for s in ways
        ]
        assert largest_difference(grads[0], grads[2]) < 1e-12
        assert largest_difference(grads[1], grads[2]) < 1e-12
        assert largest_difference(grads[0]["head"], jax.tree.map(jnp.zeros_like, grads[0]["head"])) > 1e-4


def test_a_metric_that_is_no_number_is_refused(key):
    """As a confusion matrix, whose mean over tasks would be another number than that of all rows."""
    batch, _ = quadratic_tasks()

    def judge(params, stats, batch, key, step):
        return quadratic(params, stats, batch, key, step)[0], Aux(stats, {"rows": Sums(jnp.ones(3), lambda a: a)})

    with pytest.raises(ValueError, match=r"the metric 'rows' of a task has shape \(3,\)"):
        meta(adapt_to(quadratic, fixed_rate(0.1), steps=1), judge)({"w": jnp.ones(4)}, {}, batch, key, 0)


@pytest.mark.parametrize("spread", [0, -1, "map", True])
def test_another_way_is_refused(case, spread):
    inner, adapt, *_ = case
    with pytest.raises(ValueError, match=re.escape(f"spread={spread!r}")):
        meta(adapt, inner, spread=spread)
