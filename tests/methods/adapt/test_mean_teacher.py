import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alignment_references import same_value_and_gradient
from nets import batch, largest_difference, normed, parts, top

from jtl.backbones import mlp
from jtl.heads import linear
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann
from jtl.methods.adapt.mean_teacher import consistency_loss, mean_teacher
from jtl.methods.adapt.teachers import averaged
from jtl.networks import network
from jtl.peft import attach, lora, quantise
from jtl.train.step import make_step


def data():
    target = batch(n=8, seed=1)["x"]
    return {"source": batch(n=6), "target": {"x": target}, "strong": {"x": target + 0.5}}


def softmax(z):
    e = np.exp(z)
    return e / e.sum(1, keepdims=True)


def test_rows_and_gradient_are_those_of_numpy():
    student, teacher = np.random.default_rng(0).normal(size=(2, 7, 4))
    same_value_and_gradient(
        lambda z: consistency_loss(z, jnp.asarray(teacher)).sum(),
        lambda z: ((softmax(z) - softmax(teacher)) ** 2).sum() / 4,
        student,
    )


def test_the_teacher_is_the_average_of_the_parameters_after_each_step(key):
    rows = data()
    net, critic, _ = parts(key, rows["source"]["x"])
    # A critic's parameters are no part of the teacher.
    objective = adapt(net, alignments=[dann(critic), mean_teacher(net, momentum=0.8)])
    variables = objective.init(key, rows)
    assert set(variables.stats["teacher"]) == {"backbone", "head"}
    step = make_step(objective, optax.sgd(0.5))
    run, state = jax.jit(step), step.init(variables, key)
    expected = variables.stats["teacher"]
    for _ in range(3):
        state, _ = run(state, rows)
        expected = {n: jax.tree.map(lambda t, p: 0.8 * t + 0.2 * p, expected[n], state.params[n]) for n in expected}
        assert largest_difference(state.stats["teacher"], expected) < 1e-6
    assert largest_difference(expected, {n: state.params[n] for n in expected}) > 1e-3


def test_the_student_learns_one_view_and_the_teacher_predicts_the_other(key):
    rows = data()
    rows["strong"]["mask"] = np.arange(8) != 2
    net, _, variables = parts(key, rows["source"]["x"])
    objective = adapt(net, alignments=[mean_teacher(net, 3.0)])
    made = objective.init(key, rows, variables)
    stats = {"teacher": jax.tree.map(lambda p: 0.5 * p, made.stats["teacher"])}
    terms, aux = objective(made.params, stats, rows, key, 0)

    def said(params, x):
        return np.asarray(net.apply(variables._replace(params=params), x, train=False)[0].output)

    p, q = said(made.params, rows["strong"]["x"]), said(stats["teacher"], rows["target"]["x"])
    kept = rows["strong"]["mask"]
    squares = ((softmax(p) - softmax(q)) ** 2).mean(1)
    np.testing.assert_allclose(terms["teacher"].value, 3 * squares[kept].mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["teacher_agrees"].value, (p.argmax(1) == q.argmax(1))[kept].mean())


def test_the_teachers_pass_leaves_the_statistics_of_the_student(key):
    net, rows = network(backbone=normed(8), head=top(3)), data()
    plain, taught = adapt(net), adapt(net, alignments=[mean_teacher(net, student="target")])
    variables = taught.init(key, rows)
    running = {n: value for n, value in variables.stats.items() if n != "teacher"}
    wanted = plain(variables.params, running, rows, key, 0)[1].stats
    found = taught(variables.params, variables.stats, rows, key, 0)[1].stats
    assert largest_difference({n: found[n] for n in wanted}, wanted) < 1e-7
    assert largest_difference(found["teacher"], variables.stats["teacher"]) == 0


def test_a_teacher_that_is_given_stays_and_a_taken_name_raises(key):
    rows = data()
    net, _, variables = parts(key, rows["source"]["x"])
    objective = adapt(net, alignments=[mean_teacher(net)])
    made = objective.init(key, rows, variables)
    other = made._replace(stats={"teacher": jax.tree.map(lambda p: p + 1, made.stats["teacher"])})
    assert largest_difference(objective.init(key, rows, other).stats, other.stats) == 0
    of_more_classes = jax.tree.map(lambda p: jnp.zeros((*p.shape[:-1], p.shape[-1] + 1)), made.stats["teacher"])
    for taken in ({"x": jnp.zeros(2)}, of_more_classes):
        with pytest.raises(ValueError, match="already hold 'teacher'"):
            objective.init(key, rows, variables._replace(stats={"teacher": taken}))


def test_the_codes_of_quantised_weights_are_not_averaged(key):
    net, x = network(backbone=mlp((8,)), head=linear(2)), np.ones((2, 8), np.float32)
    net, given = attach(net, net.init(key, x), lora(1, (".*",)), key)
    net, given = quantise(net, given, (".*",), "int8", block=8)
    teacher = averaged(net, 0.5, "teacher")
    stats = teacher.init(key, {}, given).stats
    moved = given._replace(params=jax.tree.map(lambda a: a if a.dtype == jnp.int8 else a + 1, given.params))
    after = teacher.commit(stats, moved.params)
    half = jax.tree.map(lambda a: a if a.dtype == jnp.int8 else a + 0.5, given.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, stats)
    assert largest_difference(after["teacher"], half) < 1e-6
    assert teacher.predict(given.params, after, x, None).shape == (2, 2)


def test_bad_input_raises(key):
    rows = data()
    net, critic, variables = parts(key, rows["source"]["x"])
    for momentum in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"momentum={momentum}"):
            mean_teacher(net, momentum=momentum)
    with pytest.raises(ValueError, match="this model has no parts"):
        mean_teacher(critic)
    objective = adapt(net, alignments=[mean_teacher(net)])
    made = objective.init(key, rows, variables)
    rows["strong"]["x"] = rows["strong"]["x"][:5]
    with pytest.raises(ValueError, match="'target' has 8 rows and 'strong' 5"):
        objective(made.params, made.stats, rows, key, 0)
