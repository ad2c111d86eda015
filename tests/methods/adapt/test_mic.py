"""MIC beside numpy for predictions of images and of pixels, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alignment_references import same_value_and_gradient
from half_maps import Halved, logits, softmax
from nets import largest_difference

from jtl import heads, rng
from jtl.data import augment as augmentations
from jtl.data.appearance import mask_patches
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.mic import mic
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.model import from_linen
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY, CLASSES, SURE = jax.random.key(0), 3, 0.8
HEADS = {"images": heads.linear, "pixels": heads.per_position}
NETS = {kind: network(backbone=from_linen(Halved()), head=head(CLASSES)) for kind, head in HEADS.items()}
kinds = pytest.mark.parametrize("kind", NETS)
X = 1 + np.random.default_rng(0).normal(size=(16, 4, 6, 2)).astype(np.float32)
MASK = np.arange(16) % 4 != 1
ROWS = {"target": {"x": X, "mask": MASK}}
VARIABLES = NETS["images"].init(KEY, X)
PARAMS = jax.tree.map(lambda p: 4 * p, VARIABLES.params)
TEACHER = jax.tree.map(lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS)
STREAM = rng.stream(rng.stream(KEY, "alignment", 0), "mic")


def objective(kind, **options):
    """The term alone; it ends up in one program with the value and the gradient."""
    term = mic(NETS[kind], 0.7, **{"patch": 2, "threshold": SURE, **options})
    return adapt(NETS[kind], alignments=[term], labelled=(), metrics={})


def of_term(kind, params, teacher, x, mask, key=KEY, **options):
    loss, aux = objective(kind, **options)(params, {"mic": teacher}, {"target": {"x": x, "mask": mask}}, key, 0)
    return total(loss), aux.metrics["mic_quality"].value


run = jax.jit(jax.value_and_grad(of_term, argnums=1, has_aux=True), static_argnames=("kind", "ratio", "threshold"))


def said(kind, params, x):
    """Logits in numpy: of the pixels, or of the images from the mean of the features."""
    if kind == "pixels":
        return logits(params, x)
    layer, out = params["backbone"]["layer"], params["head"]["out"]
    h = x.reshape(len(x), 2, 2, 3, 2, 2).mean((2, 4))
    f = np.tanh(h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])).mean((1, 2))
    return f @ np.asarray(out["kernel"]) + np.asarray(out["bias"])


def formula(kind, params, teacher, ratio=0.5):
    """The sum of the paper, image by image, of the rows that the mask keeps."""
    shown = np.asarray(mask_patches(2, ratio)(rng.stream(STREAM, "patches"), X), float)
    values, quality = [], []
    for i in np.flatnonzero(MASK):
        p = softmax(said(kind, teacher, X[i : i + 1].astype(float)))[0]
        logp = np.log(softmax(said(kind, params, shown[i : i + 1])))[0]
        q = (p.max(-1) >= SURE).mean() if kind == "pixels" else p.max()
        values.append(-q * np.mean(np.take_along_axis(logp, p.argmax(-1)[..., None], -1)))
        quality.append(q)
    return 0.7 * np.mean(values), np.mean(quality)


@kinds
def test_the_term_and_its_gradient_are_those_of_the_formula(kind):
    def with_kernels(kernel, out):
        return {
            "backbone": {"layer": {**PARAMS["backbone"]["layer"], "kernel": kernel}},
            "head": {"out": {**PARAMS["head"]["out"], "kernel": out}},
        }

    kernels = [np.asarray(PARAMS[a][b]["kernel"], float) for a, b in (("backbone", "layer"), ("head", "out"))]
    same_value_and_gradient(
        lambda *k: of_term(kind, with_kernels(*k), TEACHER, X, MASK, ratio=0.5)[0],
        lambda *k: formula(kind, with_kernels(*k), TEACHER)[0],
        *kernels,
        tolerance=1e-6,
    )
    (value, quality), _ = run(kind, PARAMS, TEACHER, X, MASK, ratio=0.5)
    wanted = formula(kind, PARAMS, TEACHER)
    assert 0.2 < wanted[1] < 0.95
    np.testing.assert_allclose([value, quality], wanted, rtol=1e-5)


@kinds
def test_nothing_masked_and_an_equal_teacher_are_pseudo_labels(kind):
    """`−q log max p`, whose gradient holds the label and q constant."""
    p = softmax(said(kind, PARAMS, X[MASK])).max(-1)
    q = (p >= SURE).mean((1, 2), keepdims=True) if kind == "pixels" else p
    (value, _), _ = run(kind, PARAMS, PARAMS, X, MASK, ratio=0)
    np.testing.assert_allclose(value, -0.7 * (q * np.log(p)).mean(), rtol=1e-5)


def test_an_image_without_a_confident_pixel_does_not_count():
    flat = jax.tree.map(jnp.zeros_like, TEACHER)  # its largest probability is 1/3
    (value, quality), gradient = run("pixels", PARAMS, flat, X, MASK, ratio=0.5)
    assert value == quality == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@kinds
def test_masked_rows_reach_nothing_and_masked_images_give_no_nan(kind):
    spoilt = np.where(MASK[:, None, None, None], X, np.nan).astype(np.float32)
    (value, _), gradient = run(kind, PARAMS, TEACHER, spoilt, MASK, ratio=0.5)
    (wanted, _), other = run(kind, PARAMS, TEACHER, X, MASK, ratio=0.5)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert largest_difference(gradient, other) < 1e-6
    (value, _), gradient = run(kind, PARAMS, TEACHER, np.full_like(X, np.nan), np.zeros(16, bool), ratio=0.5)
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    (value, _), gradient = run(kind, PARAMS, TEACHER, X, MASK, ratio=1)
    assert value > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_parts_and_devices_take_the_step_of_one_and_the_teacher_moves_once():
    given = VARIABLES._replace(params=PARAMS, stats={"mic": TEACHER})
    drawn = make_step(objective("pixels", ratio=0.5, momentum=0.5), optax.sgd(0.5))
    # Parts draw other masks, so here there are none.
    whole, halves = (
        make_step(objective("images", ratio=0, momentum=0.5), optax.sgd(0.5), microbatch=n) for n in (1, 2)
    )
    found = [jax.jit(step)(step.init(given, KEY), ROWS)[0] for step in (drawn, whole, halves)]
    sharded, state = jit_step(drawn, drawn.init(given, KEY), mesh())
    found.append(jax.device_get(sharded(state, put_batch(ROWS, mesh()))[0]))
    found.append(unreplicated(pmap_step(whole)(replicated(whole.init(given, KEY)), split_batch(ROWS))[0]))
    for a, b in ((3, 0), (2, 1), (4, 1)):
        assert largest_difference(jax.device_get(found[a].params), found[b].params) < 1e-5
    for state in found:
        assert largest_difference(jax.device_get(state.params), PARAMS) > 1e-3
        # Halves of float32 are exact, so any order of the sum gives these bits.
        half = jax.tree.map(lambda t, p: 0.5 * np.asarray(t) + 0.5 * np.asarray(p), TEACHER, dict(state.params))
        jax.tree.map(np.testing.assert_array_equal, dict(state.stats["mic"]), half)


def test_the_images_are_augmented_before_they_are_masked():
    patches = []

    def changed(key, x):
        patches.append(x)
        return jnp.full_like(x, 3.0)

    seen = network(backbone=from_linen(Halved())._replace(apply=spy(patches)), head=heads.linear(CLASSES))
    term = mic(seen, patch=2, value=-1.0, augment=changed)
    term(PARAMS, {"mic": TEACHER}, {"target": View({}, jnp.zeros((16, 3)), X, None, None, {})}, KEY, 0)
    whole, given, shown = (np.asarray(x) for x in patches)
    np.testing.assert_array_equal(whole, X)
    np.testing.assert_array_equal(given, X)
    np.testing.assert_array_equal(
        shown, mask_patches(2, 0.7, -1.0)(rng.stream(rng.stream(KEY, "mic"), "patches"), 0 * X + 3)
    )


def spy(seen):
    inner = from_linen(Halved()).apply

    def apply(variables, x, *, train, key=None):
        seen.append(x)
        return inner(variables, x, train=train, key=key)

    return apply


def test_what_does_not_fit_is_refused():
    net = NETS["pixels"]
    for option in (
        {"threshold": 1.1},
        {"momentum": 1.0},
        {"ratio": float("nan")},
        {"patch": 0},
        {"value": float("inf")},
    ):
        with pytest.raises(ValueError, match=next(f"{n}={given}" for n, given in option.items())):
            mic(net, **{"patch": 2, **option})
    with pytest.raises(ValueError, match="mic: weight=-1"):
        mic(net, -1, patch=2)
    with pytest.raises(ValueError, match="images of 4 x 6 do not divide into patches of 4: give a divisor of 2"):
        of_term("images", PARAMS, TEACHER, X, MASK, patch=4)
    with pytest.raises(ValueError, match=r"may move pixels.*Photometric"):
        of_term("pixels", PARAMS, TEACHER, X, MASK, augment=augmentations.flip())
    with pytest.raises(ValueError, match="mic needs a view 'target'"):
        mic(net, patch=2)(PARAMS, {"mic": TEACHER}, {}, KEY, 0)
    for shape in ((16, 1), (16, 4, 6, 1), (16, 5, 3)):
        view = View({}, jnp.zeros(shape), X, None, None, {})
        with pytest.raises(ValueError, match="mic: the output of 'target' must be"):
            mic(net, patch=2)(PARAMS, {"mic": TEACHER}, {"target": view}, KEY, 0)
