import jax
import numpy as np
import pytest
from nets import batch, parts

from jtl.methods.finetune.bi_tuning import bi_tuning
from jtl.methods.finetune.contrastive import against_prototypes, supervised_contrastive
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total


@pytest.fixture(scope="module")
def setup():
    rows = batch(masked=True)
    net, _, start = parts(jax.random.key(0), rows["x"])
    objective = finetune(net, terms=[bi_tuning(0.5, width=4, temperature=0.3)])
    return rows, net, objective, objective.init(jax.random.key(1), rows, start)


def test_the_terms_are_of_the_rows_kept_alone(setup):
    rows, net, objective, start = setup
    loss, _ = objective(start.params, start.stats, rows, None, 0)
    f = np.asarray(net.apply(start, rows["x"], train=False)[0].features["pooled"])[rows["mask"]]
    y = rows["y"][rows["mask"]]
    values, there = supervised_contrastive(f @ start.params["bi_tuning"]["kernel"], y, temperature=0.3)
    np.testing.assert_allclose(loss["bi_tuning_rows"].value, 0.5 * np.asarray(values)[there].mean(), rtol=1e-5)
    w, g = (
        np.asarray(start.params["head"]["out"]["kernel"]).T,
        f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-9),
    )
    values, there = against_prototypes(g, y, w / np.linalg.norm(w, axis=1, keepdims=True), temperature=0.3)
    np.testing.assert_allclose(loss["bi_tuning_classes"].value, 0.5 * np.asarray(values)[there].mean(), rtol=1e-5)


def test_a_network_of_64_bits_is_projected_in_64(setup):
    """To 1e-12 of numpy: the projection was rounded to 32 bits."""
    rows, net, objective, start = setup
    with jax.enable_x64(True):
        wide, x = jax.tree.map(lambda a: np.asarray(a, np.float64), (start, rows["x"]))
        loss = objective(wide.params, wide.stats, {**rows, "x": x}, None, 0)[0]["bi_tuning_rows"]
        f = np.asarray(net.apply(wide, x, train=False)[0].features["pooled"])[rows["mask"]]
        z, y = f @ wide.params["bi_tuning"]["kernel"], rows["y"][rows["mask"]]
        z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-30)  # a row of zeros stays
        values = []
        for i in range(len(y)):
            a = np.delete(z @ z[i] / 0.3, i)
            same = np.delete(y, i) == y[i]
            if same.any():
                values.append(-(a[same] - np.log(np.exp(a).sum())).mean())
        np.testing.assert_allclose(loss.value, 0.5 * np.mean(values), rtol=1e-12)


def test_the_classifier_learns_from_it_and_a_masked_nan_does_not_reach_it(setup):
    rows, _, objective, start = setup

    def loss(params, rows):
        terms = objective(params, start.stats, rows, None, 0)[0]
        return total({name: term for name, term in terms.items() if name != "supervised"})

    slope = jax.jit(jax.grad(loss))(start.params, {**rows, "x": np.where(rows["mask"][:, None], rows["x"], np.nan)})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert np.abs(slope["head"]["out"]["kernel"]).max() > 1e-3
    assert np.abs(slope["bi_tuning"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("label", [-1, 3, 0])
def test_rows_whose_label_is_no_class_do_not_count(setup, label):
    """They were one more class, whose rows were pulled together."""
    rows, net, _, start = setup
    ignored = {**rows, "y": rows["y"].copy()}
    some = np.flatnonzero(rows["mask"])[:4]
    ignored["y"][some] = label
    masked = {**rows, "mask": rows["mask"].copy()}
    masked["mask"][some] = False
    objective = finetune(net, terms=[bi_tuning(0.5, width=4)], ignore=label)
    found, wanted = (objective(start.params, start.stats, part, None, 0)[0] for part in (ignored, masked))
    assert found.keys() == {"supervised", "bi_tuning_rows", "bi_tuning_classes"}
    for name, value in found.items():
        np.testing.assert_allclose(value.value, wanted[name].value, rtol=1e-5, err_msg=name)


def test_bad_input_raises(setup):
    rows, net, _, start = setup
    with pytest.raises(ValueError, match="both are positive"):
        bi_tuning(temperature=0.0)
    with pytest.raises(ValueError, match=r"must be \[8, classes\]"):
        finetune(net, terms=[bi_tuning(kernel="head/kernel")])(start.params, start.stats, rows, None, 0)
