"""DACS beside numpy, pixel by pixel, and its laws, with a network whose maps have half the size of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alignment_references import same_value_and_gradient
from half_maps import Halved, logits, softmax
from nets import largest_difference

from jtl import alignments, heads, rng
from jtl.data import augment as augmentations
from jtl.data.geometry import Photometric
from jtl.data.mixing import half_of_classes
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dacs import dacs
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.model import from_linen
from jtl.networks import network
from jtl.tasks import segmentation
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY, CLASSES, SURE = jax.random.key(0), 3, 0.9


TASK = segmentation(CLASSES)
NET = network(backbone=from_linen(Halved()), head=heads.per_position(CLASSES))


def data(source=3, target=5):
    draw = np.random.default_rng(0)
    rows = {
        d: {"x": draw.normal(size=(n, 4, 6, 2)).astype(np.float32) + i}
        for i, (d, n) in enumerate({"source": source, "target": target}.items())
    }
    y = draw.integers(0, CLASSES, (source, 4, 6))
    rows["source"]["y"] = np.where(draw.random(y.shape) < 0.3, 255, y).astype(np.uint8)
    return rows


def masked(rows):
    for i, part in enumerate(rows.values()):
        part["mask"] = np.arange(len(part["x"])) % 3 != 1 + i
    return rows


ROWS = masked(data())
OBJECTIVE = adapt(NET, TASK.loss, [dacs(NET, 0.7, threshold=SURE)], metrics=TASK.metrics, ignore=TASK.ignore)
VARIABLES = OBJECTIVE.init(KEY, ROWS)
VARIABLES = VARIABLES._replace(params=jax.tree.map(lambda p: 4 * p, VARIABLES.params))
TEACHER = jax.tree.map(
    lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), VARIABLES.params
)
STREAM = rng.stream(rng.stream(KEY, "alignment", 0), "dacs")


def term(params, teacher, rows, threshold=SURE, weights=None):
    """The sum of the paper over pixels, over their number, with the classes that the stream draws."""
    source, target = rows["source"], rows["target"]
    all_of = lambda part: np.ones(len(part["x"]), bool)  # noqa: E731
    ours = np.flatnonzero(source.get("mask", all_of(source)))
    w = np.where(source["y"] == 255, 0.0, 1.0 if weights is None else weights)
    pairs = [ours[i % len(ours)] for i in range(len(target["x"]))]
    chosen = np.asarray(
        half_of_classes(rng.stream(STREAM, "mix"), source["y"][pairs], CLASSES, weights=jnp.asarray(w[pairs]))
    )
    found, count, shares = 0.0, 0, []
    for i in np.flatnonzero(target.get("mask", all_of(target))):
        x, s = target["x"][i : i + 1].astype(float), pairs[i]
        p = softmax(logits(teacher, x))[0]
        share = (p.max(-1) >= threshold).mean()
        mixed = np.where(chosen[i][..., None], source["x"][s], x[0])
        logp = np.log(softmax(logits(params, mixed[None])))[0]
        for at in np.ndindex(4, 6):
            label, q = (source["y"][s][at], w[s][at]) if chosen[i][at] else (p[at].argmax(), share)
            found -= q * logp[at][label]
            count += 1
        shares.append(share)
    return found / count, np.mean(shares)


def of_term(params, teacher, rows, objective=OBJECTIVE):
    loss, aux = objective(params, {"dacs": teacher}, rows, KEY, 0)
    return total({"dacs": loss["dacs"]}), aux.metrics["dacs_confident"].value


run = jax.jit(jax.value_and_grad(of_term, has_aux=True))


def test_the_term_and_its_gradient_are_those_of_the_formula():
    weights = np.random.default_rng(3).uniform(0.5, 2, ROWS["source"]["y"].shape)
    rows = {**ROWS, "source": {**ROWS["source"], "weights": weights}}

    def with_kernels(kernel, out):
        params = VARIABLES.params
        return {
            "backbone": {"layer": {**params["backbone"]["layer"], "kernel": kernel}},
            "head": {"out": {**params["head"]["out"], "kernel": out}},
        }

    kernels = [np.asarray(VARIABLES.params[a][b]["kernel"], float) for a, b in (("backbone", "layer"), ("head", "out"))]
    same_value_and_gradient(
        lambda *k: of_term(with_kernels(*k), TEACHER, rows)[0],
        lambda *k: 0.7 * term(with_kernels(*k), TEACHER, rows, weights=weights)[0],
        *kernels,
        tolerance=1e-6,
    )
    (value, confident), _ = run(VARIABLES.params, TEACHER, ROWS)
    wanted, share = term(VARIABLES.params, TEACHER, ROWS)
    assert 0.1 < share < 0.9
    np.testing.assert_allclose([value, confident], [0.7 * wanted, share], rtol=1e-5)


def test_without_a_confident_pixel_the_pasted_ones_alone_count():
    flat = jax.tree.map(jnp.zeros_like, TEACHER)  # its largest probability is 1/3
    (value, confident), gradient = run(VARIABLES.params, flat, ROWS)
    assert confident == 0
    assert value > 0
    nothing = {**ROWS, "source": {**ROWS["source"], "y": np.full_like(ROWS["source"]["y"], 255)}}
    (value, _), none = run(VARIABLES.params, flat, nothing)
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(none))
    assert largest_difference(gradient, none) > 1e-3


def test_without_a_row_of_the_source_the_target_learns_its_own_labels():
    empty = {"x": np.full_like(ROWS["source"]["x"], np.nan), "mask": np.zeros(3, bool), "y": ROWS["source"]["y"]}
    (value, _), gradient = run(VARIABLES.params, TEACHER, {**ROWS, "source": empty})
    x = ROWS["target"]["x"][ROWS["target"]["mask"]]
    p, logp = softmax(logits(TEACHER, x)), np.log(softmax(logits(VARIABLES.params, x)))
    taken = np.take_along_axis(logp, p.argmax(-1)[..., None], -1)[..., 0].mean((1, 2))
    np.testing.assert_allclose(value, -0.7 * ((p.max(-1) >= SURE).mean((1, 2)) * taken).mean(), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_masked_rows_reach_nothing():
    spoilt = {
        d: {**part, "x": np.where(part["mask"][:, None, None, None], part["x"], np.nan).astype(np.float32)}
        for d, part in ROWS.items()
    }
    (value, _), gradient = run(VARIABLES.params, TEACHER, spoilt)
    (wanted, _), other = run(VARIABLES.params, TEACHER, ROWS)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert largest_difference(gradient, other) < 1e-6
    for gone in (
        {"x": np.full_like(spoilt["target"]["x"], np.nan), "mask": np.zeros(5, bool)},
        {"x": ROWS["target"]["x"][:0]},
    ):
        (value, _), gradient = run(VARIABLES.params, TEACHER, {**spoilt, "target": gone})
        assert value == 0
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_parts_and_devices_take_the_step_of_one_and_the_teacher_moves_once():
    """A map of one class is pasted whole, whatever is drawn; the parts pair their own rows."""
    rows = data(16, 16)
    rows["target"]["mask"] = np.arange(16) % 4 != 1
    y = rows["source"]["y"]
    rows["source"]["y"] = np.where(y == 255, 255, np.arange(16)[:, None, None] % CLASSES).astype(np.uint8)
    terms = [dacs(NET, momentum=0.5, threshold=SURE)]
    objective = adapt(NET, alignments=terms, labelled=(), metrics={}, ignore=TASK.ignore)
    given = VARIABLES._replace(stats={"dacs": TEACHER})
    step, halves = (make_step(objective, optax.sgd(0.5), microbatch=parts) for parts in (1, 2))
    states = [jax.jit(s)(s.init(given, KEY), rows)[0] for s in (step, halves)]
    sharded, state = jit_step(step, step.init(given, KEY), mesh())
    states.append(jax.device_get(sharded(state, put_batch(rows, mesh()))[0]))
    states.append(unreplicated(pmap_step(step)(replicated(step.init(given, KEY)), split_batch(rows))[0]))
    for state in states:
        assert largest_difference(jax.device_get(state.params), states[0].params) < 1e-5
        # Halves of float32 are exact, so any order of the sum gives these bits.
        half = jax.tree.map(lambda t, p: 0.5 * np.asarray(t) + 0.5 * np.asarray(p), TEACHER, dict(state.params))
        jax.tree.map(np.testing.assert_array_equal, dict(state.stats["dacs"]), half)
    assert largest_difference(states[0].params, VARIABLES.params) > 1e-2


def test_the_teacher_predicts_without_dropout_and_the_mixed_images_are_augmented():
    seen, dropped = [], network(backbone=from_linen(Halved(0.5)), head=heads.per_position(CLASSES))
    augment = Photometric("seen", lambda key, x: seen.append(x) or 0 * x)
    objective = adapt(dropped, TASK.loss, [dacs(dropped, threshold=SURE, augment=augment)], metrics={}, ignore=255)

    def run_at(key):
        seen.clear()
        terms, aux = objective(VARIABLES.params, {"dacs": TEACHER}, ROWS, key, 0)
        return terms["dacs"].value, aux.metrics["dacs_confident"].value, seen[0]

    (a, one, mixed), (b, two, other) = map(jax.jit(run_at), jax.random.split(KEY))
    assert a != b
    # The same teacher, without the student's dropout: as with the network that has none.
    np.testing.assert_allclose([one, two], 2 * [run(VARIABLES.params, TEACHER, ROWS)[0][1]])
    assert mixed.shape == ROWS["target"]["x"].shape
    assert largest_difference(mixed, other) > 0.1  # other classes were drawn


def test_what_does_not_fit_is_refused():
    for option in ({"threshold": 1.1}, {"momentum": 1.0}, {"threshold": float("nan")}):
        with pytest.raises(ValueError, match=next(f"{n}={value}" for n, value in option.items())):
            dacs(NET, **option)
    with pytest.raises(ValueError, match="dacs: weight=-1"):
        dacs(NET, -1)
    for augment in (alignments.fda, augmentations.flip()):
        with pytest.raises(ValueError, match=r"may move pixels.*Photometric"):
            dacs(NET, augment=augment)
    stats = {"dacs": TEACHER}
    source, bare = ROWS["source"], adapt(NET, alignments=[dacs(NET)], labelled=(), metrics={})
    for y in (None, source["y"][:, :2], source["y"].astype(np.float32)):
        with pytest.raises(ValueError, match=r"dacs: the source has inputs of \(3, 4, 6, 2\) and labels of"):
            bare(VARIABLES.params, stats, {**ROWS, "source": {"x": source["x"], "y": y}}, KEY, 0)
    with pytest.raises(ValueError, match=r"inputs of \(0, 4, 6, 2\) and labels of .* of one row or more"):
        bare(VARIABLES.params, stats, {**ROWS, "source": {n: a[:0] for n, a in source.items()}}, KEY, 0)
    with pytest.raises(ValueError, match="dacs needs a view 'target'"):
        bare(VARIABLES.params, stats, {"source": source}, KEY, 0)
    views = {d: View({}, jnp.zeros((4, 3)), None, None, None, {}) for d in ROWS}
    with pytest.raises(ValueError, match=r"dacs: the output of 'target' must be maps of logits .*\(4, 3\)"):
        dacs(NET)({}, stats, views, KEY, 0)
    with pytest.raises(ValueError, match="already hold 'dacs'"):
        OBJECTIVE.init(KEY, ROWS, VARIABLES._replace(stats={"dacs": {"x": jnp.zeros(2)}}))
