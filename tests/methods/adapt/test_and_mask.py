"""AND-mask against gradients of each domain and a loop over their entries, in float64; masks, parts and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl import alignments, losses
from jtl.methods.adapt.and_mask import agreed
from jtl.metrics.accumulate import total
from jtl.model import cast_floating
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

KEY = jax.random.key(0)
NAMES = ("a", "b", "c", "d")
NET = network(backbone=dense(6), head=top(3))
ROWS = {n: batch(n=16, seed=i, masked=True) | {"weights": np.arange(16) % 3 + 1.0} for i, n in enumerate(NAMES)}
PARAMS = NET.init(KEY, ROWS["a"]["x"]).params


def risk(params, rows):
    h = jnp.maximum(rows["x"] @ params["backbone"]["layer0"]["kernel"] + params["backbone"]["layer0"]["bias"][None], 0)
    z = h @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"][None]
    w = rows["mask"] * rows["weights"]
    return (w * losses.cross_entropy(z, rows["y"])).sum() / w.sum()


of_domain = jax.jit(jax.value_and_grad(risk))


def by_hand(params, rows, agreement, rescale):
    """The masked mean of the gradients, entry by entry, and the share of entries that are kept."""
    grads = [flatten(jax.device_get(of_domain(params, part)[1])) for part in rows.values()]
    found, kept = {}, []
    for path, like in grads[0].items():
        out, mask = np.zeros(like.shape), np.zeros(like.shape)
        for i in np.ndindex(like.shape):
            each = [g[path][i] for g in grads]
            up, down = sum(g > 0 for g in each), sum(g < 0 for g in each)
            if abs(int(up) - int(down)) / len(each) >= agreement:
                out[i], mask[i] = np.mean(each), 1
        found[path] = out / max(mask.mean(), 1e-10) if rescale else out
        kept.append(mask.ravel())
    return found, np.concatenate(kept).mean()


def run_of(objective):
    def value(params, rows):
        terms, aux = objective(params, {}, rows, KEY, 0)
        return total(terms), ({n: t.value for n, t in terms.items()}, aux.metrics["and_mask/kept"])

    return jax.jit(jax.value_and_grad(value, has_aux=True))


@pytest.mark.parametrize(("agreement", "rescale"), [(1.0, False), (0.5, True), (0.0, True)])
def test_the_gradient_is_the_papers(agreement, rescale):
    with jax.enable_x64():
        params, rows = (cast_floating(tree, jnp.float64) for tree in (PARAMS, ROWS))
        rows = {n: part | {"mask": ROWS[n]["mask"]} for n, part in rows.items()}
        objective = alignments.and_mask(NET, NAMES, agreement=agreement, rescale=rescale)
        (value, (terms, kept)), slopes = run_of(objective)(params, rows)
        risks = {n: float(of_domain(params, part)[0]) for n, part in rows.items()}
        wanted, share = by_hand(params, rows, agreement, rescale)
    kept = float(kept)
    np.testing.assert_allclose(value, np.mean(list(risks.values())), rtol=1e-12)
    np.testing.assert_allclose([terms[n] for n in NAMES], [r / 4 for r in risks.values()], rtol=1e-12)
    for path, slope in flatten(slopes).items():
        np.testing.assert_allclose(slope, wanted[path], rtol=1e-9, atol=1e-15, err_msg=path)
    np.testing.assert_allclose(kept, share, rtol=1e-6)
    assert kept == 1 if agreement == 0 else 0.1 < kept < 0.95


def test_an_agreement_that_is_a_share_of_the_domains_counts_as_reached():
    assert np.float32(7 / 13) * np.float32(13) > 7  # the product of a rounded agreement is above the whole number
    grads = [jnp.where(i < jnp.array([3, 4]), -1.0, 1.0) for i in range(13)]  # the sums of signs are 7 and 5
    np.testing.assert_array_equal(agreed(grads, 7 / 13, jnp.int32(13)), [1, 0])


def test_masked_rows_and_domains_without_rows():
    run = run_of(alignments.and_mask(NET, NAMES, rescale=True))
    bad = {
        n: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for n, part in ROWS.items()
    }
    assert largest_difference(run(PARAMS, bad), run(PARAMS, ROWS)) < 1e-6
    none = np.zeros(16, bool)
    two = {n: ROWS[n] for n in NAMES[:2]}
    (value, (_, kept)), slopes = run(PARAMS, bad | {n: {**bad[n], "mask": none} for n in NAMES[2:]})
    wanted, share = by_hand(PARAMS, two, 1.0, True)
    np.testing.assert_allclose(value, np.mean([of_domain(PARAMS, part)[0] for part in two.values()]), rtol=1e-6)
    np.testing.assert_allclose(kept, share, rtol=1e-6)
    for path, slope in flatten(slopes).items():
        np.testing.assert_allclose(slope, wanted[path], rtol=1e-5, atol=1e-7, err_msg=path)
    (value, _), slopes = run(PARAMS, {n: {**part, "mask": none} for n, part in bad.items()})
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))


def test_a_step_trains_a_part_alone_and_eight_devices_step_as_one():
    mask = select("head/.*")
    step = make_step(alignments.and_mask(NET, NAMES, trainable=mask), optax.sgd(0.5), trainable=mask)
    start = step.init(NET.init(KEY, ROWS["a"]["x"]), KEY)
    one, metrics = jax.jit(step)(start, ROWS)
    wanted, share = by_hand(PARAMS, ROWS, 1.0, False)
    for path, after in flatten(one.params).items():
        moved = flatten(PARAMS)[path] - 0.5 * wanted[path] if path.startswith("head") else flatten(PARAMS)[path]
        np.testing.assert_allclose(after, moved, atol=1e-6, err_msg=path)
    assert share != pytest.approx(float(metrics["and_mask/kept"]))  # of the head alone
    eight, many = pmap_step(step)(replicated(start), split_batch(ROWS))
    assert largest_difference(jax.device_get(unreplicated(eight)).params, one.params) < 1e-6
    np.testing.assert_allclose(np.ravel(many["loss"])[0], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(np.ravel(many["and_mask/kept"])[0], metrics["and_mask/kept"], rtol=1e-6)


def test_each_part_of_a_batch_has_a_mask_of_its_own():
    rows = {n: part | {"mask": np.ones(16, bool), "weights": np.ones(16)} for n, part in ROWS.items()}
    step = make_step(alignments.and_mask(NET, NAMES), optax.sgd(1.0), microbatch=2)
    after = jax.jit(step)(step.init(NET.init(KEY, ROWS["a"]["x"]), KEY), rows)[0].params
    halves = [by_hand(PARAMS, jax.tree.map(lambda a, i=i: a[i::2], rows), 1.0, False)[0] for i in (0, 1)]
    for path, now in flatten(after).items():
        wanted = flatten(PARAMS)[path] - (halves[0][path] + halves[1][path]) / 2
        np.testing.assert_allclose(now, wanted, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(({"agreement": a}, rf"agreement={a}: must be a number in \[0, 1\]") for a in (-0.1, 1.5, float("nan"), True)),
        ({"domains": "ab"}, "domains='ab'"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        alignments.and_mask(**{"net": NET, "domains": NAMES, **given})
