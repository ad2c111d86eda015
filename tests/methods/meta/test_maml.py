import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, quadratic, quadratic_tasks, tasks_of
from nets import largest_difference, normed, parts, top

from jtl import model, ops
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.methods.meta import update_rules
from jtl.methods.meta.inner_loop import Adapt, adapt_to
from jtl.methods.meta.maml import maml, meta
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.params import select
from jtl.train.step import make_step
from jtl.typing import Aux


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
def test_meta_gradient_on_a_quadratic_is_the_analytic_one(key, steps, order):
    """∂/∂θ L_q(θ_K) = (I − αA)^K B (θ_K − b_q), and without the Jacobian (I − αA)^K in the first order."""
    with jax.enable_x64(True):
        rows, theta = quadratic_tasks()
        alpha = 0.1
        objective = maml(quadratic, update_rules.fixed_rate(alpha), steps=steps, order=order)
        params = {"w": jnp.asarray(theta)}
        found = jax.grad(lambda p: total(objective(p, {}, jax.tree.map(jnp.asarray, rows), key, 0)[0]))(params)["w"]
        expected = []
        for t in range(3):
            a, b = rows["support"]["A"][t], rows["support"]["b"][t]
            jacobian = np.linalg.matrix_power(np.eye(4) - alpha * a, steps)
            fast = b + jacobian @ (theta - b)
            outer = rows["query"]["A"][t] @ (fast - rows["query"]["b"][t])
            expected.append((jacobian if order == 2 else np.eye(4)) @ outer)
        np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-12)


def test_first_order_is_second_order_where_the_hessian_vanishes(key):
    def linear(params, stats, batch, key, step):
        return (params["w"] * batch["g"]).sum(), Aux(stats, {})

    with jax.enable_x64(True):
        rows = {"support": {"g": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))}}
        rows["query"] = {"g": rows["support"]["g"][::-1] ** 2}
        params = {"w": jnp.ones(4)}
        one, two = (
            jax.grad(
                lambda p, o=o: total(
                    maml(linear, update_rules.fixed_rate(0.3), steps=4, order=o)(p, {}, rows, key, 0)[0]
                )
            )(params)
            for o in (1, 2)
        )
        np.testing.assert_allclose(one["w"], two["w"], rtol=1e-15)


def test_task_by_task_is_all_at_once(key):
    """Gradients added up in a scan over tasks equal those of all tasks side by side."""
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])
    objective = maml(finetune(net), update_rules.learned_rate(0.1), steps=2)
    variables = objective.init(key, rows, variables)
    results = []
    for microbatch in (1, 2, 4):
        step = make_step(objective, optax.sgd(0.5), microbatch=microbatch)
        state, metrics = jax.jit(step)(step.init(variables, key), rows)
        results.append((state.params, metrics))
    assert largest_difference(results[0], results[1]) < 1e-6
    assert largest_difference(results[0], results[2]) < 1e-6
    assert largest_difference(results[0][0]["rule"], variables.params["rule"]) > 1e-4, "the rates learn"


def test_under_pmap_a_task_is_normalised_by_its_own_rows(key):
    """Each device has other tasks: over all of them BatchNorm's mean would be of two tasks at once."""
    rows = few_shot(tasks=2)
    net = network(backbone=normed(8), head=top(3))
    params, stats = net.init(key, rows["support"]["x"][0])
    objective = maml(finetune(net), update_rules.fixed_rate(1.0), steps=1, order=1)

    def losses(rows):
        return objective(params, stats, rows, key, 0)[0]["loss"].total

    each = [jax.tree.map(lambda a, t=t: a[t : t + 1], rows) for t in range(2)]
    found = jax.pmap(losses, axis_name=ops.BATCH_AXIS)(jax.tree.map(lambda *a: np.stack(a), *each))
    np.testing.assert_allclose(found, [jax.jit(losses)(one) for one in each], rtol=1e-5)


def test_learned_rates_have_their_gradient_by_differences(key):
    with jax.enable_x64(True):
        rows, theta = quadratic_tasks()
        rows = jax.tree.map(jnp.asarray, rows)
        rule = update_rules.learned_rate(0.1)
        objective = maml(quadratic, rule, steps=2)
        variables = objective.init(key, rows, model.Variables({"w": jnp.asarray(theta)}, {}))

        def f(params):
            return total(objective(params, {}, rows, key, 0)[0])

        grads, h = jax.jit(jax.grad(f))(variables.params), 1e-6
        for i in range(4):
            for path in (("w",), ("rule", "w")):

                def moved(by, i=i, path=path):
                    leaf = variables.params["w"] if path == ("w",) else variables.params["rule"]["w"]
                    leaf = leaf.at[i].add(by)
                    return (
                        {"w": leaf, "rule": variables.params["rule"]}
                        if path == ("w",)
                        else {"w": variables.params["w"], "rule": {"w": leaf}}
                    )

                slope = (f(moved(h)) - f(moved(-h))) / (2 * h)
                exact = grads["w"][i] if path == ("w",) else grads["rule"]["w"][i]
                np.testing.assert_allclose(slope, exact, rtol=1e-7)


def test_optax_sgd_is_the_fixed_rate_and_adam_starts_afresh(key):
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])
    value = [
        total(maml(finetune(net), rule, steps=3)(variables.params, {}, rows, key, 0)[0])
        for rule in (update_rules.fixed_rate(0.2), update_rules.from_optax(optax.sgd(0.2)))
    ]
    np.testing.assert_allclose(value[0], value[1], rtol=1e-7)
    support = {name: v[0] for name, v in rows["support"].items()}
    adapt = adapt_to(finetune(net), update_rules.from_optax(optax.adam(0.01)), steps=3)
    fast, _ = adapt(variables.params, {}, support, key)
    tx, params = optax.adam(0.01), variables.params
    opt = tx.init(params)
    for _ in range(3):
        g = jax.jit(jax.grad(lambda p: total(finetune(net)(p, {}, support, key, 0)[0])))(params)
        updates, opt = tx.update(g, opt, params)
        params = optax.apply_updates(params, updates)
    assert largest_difference(fast, params) < 1e-6


def test_what_is_not_adapted_stays_in_the_inner_loop_and_learns_in_the_outer(key):
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])
    only_head = select("head/.*")
    adapt = adapt_to(finetune(net), update_rules.fixed_rate(0.5), steps=2, adapted=only_head)
    fast, _ = adapt(variables.params, {}, {n: v[0] for n, v in rows["support"].items()}, key)
    jax.tree.map(np.testing.assert_array_equal, fast["backbone"], variables.params["backbone"])
    assert largest_difference(fast["head"], variables.params["head"]) > 1e-3
    objective = maml(finetune(net), update_rules.fixed_rate(0.5), steps=2, adapted=only_head)
    grads = jax.jit(jax.grad(lambda p: total(objective(p, {}, rows, key, 0)[0])))(variables.params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["backbone"]))


def test_inductive_queries_are_normalised_by_the_support_set(key):
    """With evaluation mode outside, a query's loss does not depend on the queries beside it; transductive, it does."""
    rows = few_shot()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["support"]["x"][0])

    def losses(outer):
        objective = maml(finetune(net), update_rules.fixed_rate(0.1), steps=1, outer=outer)
        both = objective(variables.params, variables.stats, rows, key, 0)[0]
        halves = [
            objective(
                variables.params,
                variables.stats,
                {**rows, "query": {n: v[:, cut] for n, v in rows["query"].items()}},
                key,
                0,
            )[0]
            for cut in (slice(0, 4), slice(4, 9))
        ]
        return float(total(both)), float(4 * total(halves[0]) + 5 * total(halves[1])) / 9

    whole, pieces = losses(evaluation(net))
    assert whole == pytest.approx(pieces, rel=1e-6)
    whole, pieces = losses(None)
    assert abs(whole - pieces) > 1e-3


def test_statistics_come_back_as_they_went_in(key):
    rows = few_shot()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["support"]["x"][0])
    _, aux = maml(finetune(net), update_rules.fixed_rate(0.1), steps=1)(variables.params, variables.stats, rows, key, 0)
    assert aux.stats is variables.stats


@pytest.mark.parametrize(("options", "message"), [({"steps": -1}, "steps=-1"), ({"steps": 1, "order": 3}, "order=3")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        maml(quadratic, update_rules.fixed_rate(0.1), **options)


@pytest.mark.parametrize(("order", "steps", "precise"), [(1, 2, True), (2, 5, True), (2, 1, False)])
def test_meta_gradient_of_a_conv_net_is_torchs(key, order, steps, precise):
    """conv4 with batch statistics, randomised parameters, 3-way 2-shot, in float64, and one step in float32."""
    torch = pytest.importorskip("torch", reason="torch is the reference; the test extra installs it")
    from torch.nn import functional as F

    from jtl import backbones, heads

    with jax.enable_x64(precise):
        draw, dtype = np.random.default_rng(0), np.float64 if precise else np.float32
        net = network(backbone=backbones.conv4(filters=4, downsample="pool"), head=heads.linear(3))
        x = {"support": draw.normal(size=(2, 6, 16, 16, 1)), "query": draw.normal(size=(2, 9, 16, 16, 1))}
        x = {part: images.astype(dtype) for part, images in x.items()}
        y = {
            "support": np.tile(np.repeat(np.arange(3), 2), (2, 1)),
            "query": np.tile(np.repeat(np.arange(3), 3), (2, 1)),
        }
        made = net.init(key, jnp.asarray(x["support"][0]))
        params, stats = jax.tree.map(
            lambda a: jnp.asarray(draw.normal(size=a.shape) * 0.3 + (a.ndim == 1) * 0.5, dtype), made
        )
        rows = {part: {"x": jnp.asarray(x[part]), "y": jnp.asarray(y[part], jnp.int32)} for part in x}
        objective = maml(finetune(net), update_rules.fixed_rate(0.1), steps=steps, order=order)
        ours = jax.jit(jax.grad(lambda p: total(objective(p, stats, rows, key, 0)[0])))(params)

        from jtl.params import flatten

        flat = {path: torch.tensor(np.asarray(leaf), requires_grad=True) for path, leaf in flatten(params).items()}

        def run(p, images):
            h = torch.tensor(images).permute(0, 3, 1, 2)
            for i in range(1, 5):
                at = f"backbone/stage{i}"
                kernel = p[f"{at}/conv/kernel"].permute(3, 2, 0, 1)
                h = F.conv2d(h, kernel, p.get(f"{at}/conv/bias"), padding=1)
                h = F.batch_norm(h, None, None, p[f"{at}/norm/scale"], p[f"{at}/norm/bias"], training=True)
                h = F.max_pool2d(F.relu(h), 2)
            h = h.permute(0, 2, 3, 1).flatten(1)
            name = next(path for path in p if path.startswith("head/") and path.endswith("kernel"))
            return h @ p[name] + p[name.replace("kernel", "bias")]

        losses = []
        for t in range(2):
            fast = dict(flat)
            for _ in range(steps):
                loss = F.cross_entropy(run(fast, x["support"][t]), torch.tensor(y["support"][t]))
                grads = torch.autograd.grad(loss, list(fast.values()), create_graph=order == 2)
                fast = {n: p - 0.1 * g for (n, p), g in zip(fast.items(), grads, strict=True)}
            losses.append(F.cross_entropy(run(fast, x["query"][t]), torch.tensor(y["query"][t])))
        torch.stack(losses).mean().backward()
        for path, g in flatten(ours).items():
            reference = flat[path].grad.numpy()
            if precise:
                np.testing.assert_allclose(g, reference, rtol=1e-8, atol=1e-10, err_msg=path)
            else:
                assert np.linalg.norm(g - reference) <= 5e-3 * np.linalg.norm(reference), path


def test_small_steps_add_up_in_half_precision(key):
    """A step of 1e-3 is less than bfloat16 resolves at 1: rounded after each, a hundred would not move it."""

    def linear(params, stats, batch, key, step):
        return params["w"].astype(jnp.float32), Aux(stats, {})

    adapt = adapt_to(linear, update_rules.fixed_rate(1e-3), steps=100)
    fast, _ = adapt({"w": jnp.ones((), jnp.bfloat16)}, {}, {"x": np.zeros(1)}, key)
    assert fast["w"] == jnp.asarray(0.9, jnp.bfloat16)


def test_an_update_rule_keeps_the_parameters_types(key):
    half = update_rules.fixed_rate(0.1)._replace(
        step=lambda phi, grads, params, memory: (jax.tree.map(lambda p: p.astype(jnp.float16), params), memory)
    )
    rows = few_shot()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["support"]["x"][0])
    with pytest.raises(AssertionError, match="parameters of an update rule"):
        maml(finetune(net), half, steps=1)(variables.params, variables.stats, rows, key, 0)


def test_the_step_of_a_rule_without_memory_is_told_what_to_return(key):
    rule = update_rules.fixed_rate(0.1)._replace(
        step=lambda phi, grads, params, memory: jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    )
    rows = few_shot()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["support"]["x"][0])
    with pytest.raises(TypeError, match=r"update rule returned dict: give \(params, memory\)"):
        maml(finetune(net), rule, steps=1)(variables.params, variables.stats, rows, key, 0)


def test_no_inner_step_judges_the_start(key):
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])
    value, aux = maml(finetune(net), update_rules.fixed_rate(0.1), steps=0)(variables.params, {}, rows, key, 0)
    alone = [total(finetune(net)(variables.params, {}, task, key, 0)[0]) for task in tasks_of(rows["query"])]
    np.testing.assert_allclose(total(value), np.mean(alone), rtol=1e-6)
    np.testing.assert_allclose(aux.outputs["loss"], alone, rtol=1e-5)


def test_any_way_to_adapt_is_meta_learned(key):
    """A head in closed form, the class means of the support set, in place of gradient steps; it has no parameters."""
    rows = few_shot()
    net, _, variables = parts(key, rows["support"]["x"][0])

    def prototypes(params, stats, support, key, step):
        z = net.apply(model.Variables(params, stats), support["x"], train=True)[0].read
        member = jax.nn.one_hot(support["y"], 3)
        c = member.T @ z / jnp.maximum(member.sum(0), 1)[:, None]
        return {**params, "head": {"out": {"kernel": 2 * c.T, "bias": -(c**2).sum(1)}}}, stats

    adapt = Adapt(prototypes, lambda key, support, given: finetune(net).init(key, support, given))
    objective = meta(adapt, finetune(net))
    found = objective.init(key, rows)
    jax.tree.map(np.testing.assert_array_equal, found, net.init(key, rows["support"]["x"][0]))
    value, aux = objective(variables.params, {}, rows, key, 0)
    expected = []
    for support, query in zip(tasks_of(rows["support"]), tasks_of(rows["query"]), strict=True):
        z, q = (net.apply(variables, half["x"], train=False)[0].read for half in (support, query))
        c = np.stack(
            [np.asarray(z)[support["y"] == k].mean(0) if (support["y"] == k).any() else np.zeros(8) for k in range(3)]
        )
        distance = ((np.asarray(q)[:, None] - c[None]) ** 2).sum(-1)
        logits = -distance + (np.asarray(q) ** 2).sum(-1, keepdims=True)
        expected.append(
            optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits, jnp.float32), query["y"]).mean()
        )
    np.testing.assert_allclose(total(value), np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(aux.outputs["loss"], expected, rtol=1e-5)


def test_labels_without_meaning_give_chance(key):
    """Shuffled within each task, labels cannot be learned from the support set; true ones can."""
    draw = np.random.default_rng(0)
    tasks, way = 64, 4
    centres = draw.normal(size=(tasks, way, 8))
    y = np.tile(np.arange(way, dtype=np.int32), (tasks, 10))
    x = (np.take_along_axis(centres, y[:, :, None], 1) + 0.1 * draw.normal(size=(tasks, y.shape[1], 8))).astype(
        np.float32
    )
    inner = finetune(network(backbone=parts(key, x[0])[0].parts["backbone"], head=top(way)))
    objective = maml(inner, update_rules.fixed_rate(0.5), steps=5)

    def accuracy(y):
        rows = {"support": {"x": x[:, :20], "y": y[:, :20]}, "query": {"x": x[:, 20:], "y": y[:, 20:]}}
        return float(
            jax.jit(lambda: objective(*objective.init(key, rows), rows, key, 0)[1].metrics["accuracy"].value)()
        )

    assert accuracy(y) > 0.7
    assert accuracy(draw.permuted(y, axis=1)) == pytest.approx(0.25, abs=0.05)  # 1,280 queries: four deviations


def test_a_rate_of_zero_gives_the_plain_gradient(key):
    """θ_K = θ, so the meta-gradient is that of the query loss; and the rate's own is −Σ_k g_support · g_query."""
    with jax.enable_x64(True):
        rows, theta = quadratic_tasks()
        rows = jax.tree.map(jnp.asarray, rows)
        rule = update_rules.learned_rate(0.0)
        objective = maml(quadratic, rule, steps=3)
        variables = objective.init(key, rows, model.Variables({"w": jnp.asarray(theta)}, {}))
        found = jax.jit(jax.grad(lambda p: total(objective(p, {}, rows, key, 0)[0])))(variables.params)
        halves = [jax.tree.map(np.asarray, rows[half]) for half in ("support", "query")]
        inner, outer = (np.einsum("tij,tj->ti", half["A"], theta - half["b"]) for half in halves)
        np.testing.assert_allclose(found["w"], outer.mean(0), rtol=1e-13)
        np.testing.assert_allclose(found["rule"]["w"], -3 * (inner * outer).mean(0), rtol=1e-13)


def test_what_is_computed_again_is_the_same_in_less_memory(key):
    """Gradients in float64, and the temporaries of the compiled program for six steps of a wide layer."""
    with jax.enable_x64(True):
        rows = jax.tree.map(lambda a: jnp.asarray(a, np.promote_types(a.dtype, np.int64)), few_shot(tasks=1, shot=60))
        inner = finetune(network(backbone=normed(64), head=top(3)))
        found, memory = [], []
        for remat in (False, True):
            objective = meta(adapt_to(inner, update_rules.learned_rate(0.1), steps=6, remat=remat), inner)
            params, stats = jax.tree.map(lambda a: a.astype(jnp.float64), objective.init(key, rows))
            slope = jax.jit(jax.grad(lambda p, o=objective, s=stats: total(o(p, s, rows, key, 0)[0])))
            program = slope.lower(params).compile()
            found.append(program(params))
            memory.append(program.memory_analysis().temp_size_in_bytes)  # pyright: ignore[reportOptionalMemberAccess]
        assert largest_difference(*found) < 1e-13
        assert memory[1] < 0.7 * memory[0]


@pytest.mark.parametrize("missing", ["support", "query"])
def test_a_batch_without_one_of_its_sets_is_refused(key, missing):
    net = network(backbone=normed(4), head=top(3))
    objective = maml(finetune(net), update_rules.fixed_rate(0.1), steps=1)
    rows = few_shot(tasks=2)
    variables = objective.init(key, rows)
    rows["support set"] = rows.pop(missing)
    for use in (lambda: objective.init(key, rows), lambda: objective(*variables, rows, key, 0)):
        with pytest.raises(ValueError, match=f"over tasks needs a set '{missing}'; the batch has .*'support set'"):
            use()
