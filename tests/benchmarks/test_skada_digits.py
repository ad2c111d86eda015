"""The images and the rate of SKADA-Bench's protocol, and one short run of it on real digits."""

import json

import jax
import numpy as np
import pytest

import jtl
from benchmarks import skada_digits
from jtl._tracing.eval_shape import shapes


@pytest.fixture(autouse=True)
def _found(real_data, monkeypatch):
    monkeypatch.setenv("JTL_DATA", str(real_data("usps.npz").parent))


def test_images_of_mnist_are_normalised_and_those_of_usps_have_a_border(real_data):
    x, y = skada_digits.images("mnist", 2_000)
    assert (x.shape, y.shape, x.dtype) == ((2_000, 28, 28, 1), (2_000,), np.float32)
    # The moments are those of all images; a pixel's mean over so few is off by some hundredths.
    np.testing.assert_allclose([x.mean(dtype=np.float64), x.std(dtype=np.float64)], [0, 1], atol=0.03)
    x, y = skada_digits.images("usps", 100)
    mean, deviation = skada_digits.MOMENTS["usps"]
    inside = np.load(real_data("usps.npz"))["x_train"][:100] / 255
    np.testing.assert_allclose(x[:, 6:22, 6:22, 0] * deviation + mean, inside, atol=1e-6)
    x[:, 6:22, 6:22] = -mean / deviation
    np.testing.assert_allclose(x, -mean / deviation, rtol=1e-6)
    assert (len(y), x.dtype, y.dtype) == (100, np.float32, np.int32)


def test_the_network_has_the_parameters_of_pytorch_s_example():
    made = shapes(skada_digits.network().init, jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(made.params)) == 1_199_882


def test_a_step_is_that_of_torch_with_momentum_and_weight_decay():
    tx, draw = skada_digits.optimizer(), np.random.default_rng(0)
    weight, other, moving = np.ones(3, np.float32), np.ones(3), np.zeros(3)
    state = tx.init(weight)
    for gradient in draw.normal(size=(3, 3)).astype(np.float32):
        change, state = tx.update(gradient, state, weight)
        weight = weight + np.asarray(change)
        moving = 0.6 * moving + gradient + 1e-5 * other
        other = other - 0.1 * moving
        np.testing.assert_allclose(weight, other, rtol=1e-6)


def test_a_short_run_writes_its_rows(tmp_path, monkeypatch):
    small = jtl.network(backbone=jtl.backbones.conv4(2), head=jtl.heads.linear(10))
    monkeypatch.setattr(skada_digits, "network", lambda: small)
    monkeypatch.setattr(skada_digits, "BATCH", 16)
    domains = skada_digits.domains

    def twice_as_many_target_rows(*asked):
        made = domains(*asked)
        return made._replace(target=tuple(np.concatenate([part, part]) for part in made.target))

    monkeypatch.setattr(skada_digits, "domains", twice_as_many_target_rows)
    path = tmp_path / "skada.json"
    given = ["--source", "usps", "--epochs", "1", "--rows", "110", "--methods", "source", "mcc", "--json", str(path)]
    skada_digits.main(given)
    skada_digits.main(given)  # all results are there: nothing runs
    found = json.loads(path.read_text())
    assert [(row["pair"], row["method"]) for row in found["rows"]] == [
        ("USPS to MNIST, 1 of 10 epochs", method) for method in ("source", "mcc")
    ]
    assert [look["step"] for look in found["rows"][0]["looks"]] == [1, 2, 3, 4, 5]
    assert [look["step"] for look in found["rows"][1]["looks"]] == [2, 4, 6, 8, 10]  # the larger domain's epochs
    assert len(path.with_suffix(".partial.jsonl").read_text().splitlines()) == 2
