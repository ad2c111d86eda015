"""The benchmark of CIFAR-FS on made-up maps whose answer is known: it chooses, trains, measures and keeps rows."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn")

import jtl
from benchmarks import cifar_fs, tables


def data():
    """Classes that differ in the mean of their maps; each split has classes of its own."""
    draw = np.random.default_rng(0)

    def of(classes):
        means = 0.3 * draw.normal(size=(classes, 1, 1, 1, 64))
        return np.abs(means + draw.normal(size=(classes, 17, 8, 8, 64)) / 3).astype(np.float32)

    block = jtl.from_linen(cifar_fs.LastBlock()).init(jax.random.key(0), np.zeros((1, 8, 8, 64), np.float32))
    return cifar_fs.Data(of(20), of(5), of(7), block)


@pytest.mark.slow
@pytest.mark.compiling
def test_every_method_is_chosen_measured_and_kept(tmp_path, monkeypatch):
    few = {"ProtoNet + 5 steps": (1e-3,), "P>M>F": (1e-3,), "meta-transfer": (0.5,), "LoRA-MAML": (0.5,)}  # to compile
    monkeypatch.setattr(cifar_fs, "CHOICES", cifar_fs.CHOICES | few)
    out, given = tmp_path / "rows.json", ["--steps", "1", "--episodes", "20", "--shots", "1", "--json"]
    cifar_fs.main([*given, str(out)], data())
    results = json.loads(out.read_text())
    rows = {row["head"]: row for row in results["rows"]}
    assert list(rows) == list(cifar_fs.CHOICES)
    for name, row in rows.items():
        assert row["accuracy"] > 50, f"{name}: chance has 20"
        choices = cifar_fs.CHOICES[name]
        assert row["choice"] in choices
        if len(choices) > 1:
            assert row["validation"][str(row["choice"])] == max(row["validation"].values())
    assert out.with_suffix(".md").read_text() == tables.render(results)
    rows["probe"]["accuracy"] = 0.0
    out.write_text(json.dumps({**results, "rows": list(rows.values())}))
    cifar_fs.main([*given, str(out), "--methods", "prototypes"], data())
    assert [r["accuracy"] for r in json.loads(out.read_text())["rows"] if r["head"] == "probe"] == [0.0]


def test_the_tuned_block_starts_at_protonet_and_moves():
    """At a rate of 0 P>M>F is ProtoNet, to the bit; at another it changes the block and has prototypes of its maps."""
    runner = cifar_fs.Runner(data(), shot=1, steps=1)
    runner.made["ProtoNet"] = 1e-3
    _, protonet, start = runner._trained("ProtoNet", 1e-3)
    support = jax.tree.map(lambda a: a[0], runner.episodes(runner.data.test, 1, 0)[0]["support"])
    fast = [protonet(*start, support, jax.random.key(0))[0]]
    fast += [runner._trained("P>M>F", rate)[1](*start, support, jax.random.key(0))[0] for rate in (0.0, 0.1)]
    still, moved = (jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), fast[0], other) for other in fast[1:])
    assert max(jax.tree.leaves(still)) == 0
    assert min(jax.tree.leaves(moved["backbone"]["block3"])) > 0
    again, _ = protonet({**fast[2], "head": fast[0]["head"]}, start.stats, support, jax.random.key(0))
    jax.tree.map(np.testing.assert_allclose, fast[2]["head"], again["head"])


def test_a_number_of_episodes_that_would_not_be_judged_is_refused(capsys):
    with pytest.raises(SystemExit):
        cifar_fs.main(["--episodes", "39"], data())
    assert "--episodes 39: 20 run at once" in capsys.readouterr().err


def test_the_split_network_is_the_whole_one(real_data, monkeypatch):
    """The maps below the last block, and that block on them, give the features of the whole network."""
    real_data("cifar_resnet/resnet20-12fca82f.th")
    monkeypatch.setenv("JTL_DATA", str(real_data("cifar100.npz").parent))
    with np.load(real_data("cifar100.npz")) as files:
        images, labels = files["x_train"], files["y_train"]
    loaded = cifar_fs.load(images=2, tests=1)
    known = jtl.load(real_data("cifar_resnet/resnet20-12fca82f.th"), arch="cifar_resnet20")
    net = jtl.preprocessed(known.backbone, jtl.data.augment.normalise(cifar_fs.MEAN, cifar_fs.STD))
    c = jtl.data.cifar_fs().val[3]
    x = images[np.flatnonzero(labels == c)[:2]]
    wanted = net.apply(jtl.part(known.variables, "backbone"), x, train=False)[0]["pooled"]
    found = jtl.from_linen(cifar_fs.LastBlock()).apply(loaded.block, jnp.asarray(loaded.val[3]), train=False)[0][
        "pooled"
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
