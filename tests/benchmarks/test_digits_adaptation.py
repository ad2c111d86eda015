"""What the benchmark of digits shows its networks, and one short run of it on real digits."""

import json

import numpy as np

from benchmarks import digits_adaptation


def test_images_have_the_networks_size_and_range(real_data, monkeypatch):
    monkeypatch.setenv("JTL_DATA", str(real_data("usps.npz").parent))
    monkeypatch.setattr(digits_adaptation, "TRAIN", 20)
    monkeypatch.setattr(digits_adaptation, "TEST", 10)
    for name, side, low in (("blocks", 16, -1.0), ("lenet", 28, 0.0)):
        digits = digits_adaptation.NETWORKS[name]
        found = digits.between("mnist", "usps")
        assert [part[0].shape for part in found] == [(n, side, side, 1) for n in (20, 20, 10, 10)]
        for x, y in found:
            assert x.min() == low
            assert 0.9 < x.max() <= 1
            assert y.dtype == np.int32
    x = digits_adaptation.NETWORKS["lenet"].between("mnist", "mnist_m").source[0]
    assert x.shape == (20, 32, 32, 3)
    np.testing.assert_array_equal(x[..., 0], x[..., 2])


def test_a_short_run_writes_its_rows(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("JTL_DATA", str(real_data("usps.npz").parent))
    monkeypatch.setattr(digits_adaptation, "TRAIN", 80)
    monkeypatch.setattr(digits_adaptation, "TEST", 60)
    path = tmp_path / "digits.json"
    given = ["--network", "lenet", "--steps", "5", "--batch", "20", "--seeds", "1", "--methods", "source", "mcc"]
    digits_adaptation.main([*given, "--pairs", "USPS to MNIST", "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["setting"]["network"] == "lenet"
    assert found["setting"]["sides"] == [28, 32]
    assert [row["method"] for row in found["rows"]] == ["source", "mcc"]
    assert all(len(row["looks"]) == 5 for row in found["rows"])
