"""The benchmark of ProtoNet on Omniglot, on made-up characters whose answer is known."""

import json

import jax
import numpy as np
import pytest

import jtl
from benchmarks import omniglot_protonet

CHARACTERS, EACH, SIDE = 1623, 20, 4


@pytest.fixture
def characters(tmp_path, monkeypatch):
    """A file as Omniglot's: all images of a character are the same, and its first two pixels say which it is."""
    which = np.arange(CHARACTERS)
    x = np.random.default_rng(0).integers(0, 256, (CHARACTERS, 1, SIDE, SIDE), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = which // 256, which % 256
    np.savez(tmp_path / "omniglot.npz", X=np.broadcast_to(x, (CHARACTERS, EACH, SIDE, SIDE)))
    monkeypatch.setattr(omniglot_protonet.base, "find", lambda folder, name: tmp_path / "omniglot.npz")


def test_no_character_is_in_two_parts(characters):
    def which(x):
        high, low = np.rint(255 * x[:, 0, 0, :2, 0]).astype(int).T
        return set((256 * high + low).tolist())

    parts = omniglot_protonet.characters()
    assert [part.shape for part in parts] == [(count, EACH, SIDE, SIDE, 1) for count in (1100, 100, 423)]
    assert len(set.union(*map(which, parts))) == CHARACTERS  # no character is in two parts
    assert which(omniglot_protonet.characters(seed=1)[2]) != which(parts[2])


@pytest.mark.slow
@pytest.mark.compiling
def test_equal_images_are_all_told_apart_and_a_seed_gives_the_same_bits(characters, tmp_path, monkeypatch):
    """Support and queries of a class are one image, so prototypes are right on all, in both modes."""

    def small(way):
        return jtl.network(backbone=jtl.backbones.conv4(16, flatten=True, momentum=1.0), head=jtl.heads.linear(way))

    monkeypatch.setattr(omniglot_protonet, "network", small)
    monkeypatch.setattr(omniglot_protonet, "TESTS", ((5, 1),))
    monkeypatch.setattr(omniglot_protonet, "RATES", (2e-3, 5e-3))
    learned, train = [], omniglot_protonet.train
    monkeypatch.setattr(omniglot_protonet, "train", lambda *given: learned.append(train(*given)) or learned[-1])
    path = tmp_path / "found.json"
    omniglot_protonet.main(["--steps", "2", "--episodes", "4", "--json", str(path)])
    made = json.loads(path.read_text())
    # Both rates are right on all; of equal ones the last is kept.
    assert made["setting"] == {"steps": 2, "rate": 5e-3, "validation": {"0.002": 100.0, "0.005": 100.0}}
    expected = {"data": "Omniglot", "way": 5, "shot": 1, "accuracy": 100.0, "interval": 0.0, "episodes": 4}
    assert made["rows"] == [{**expected, "head": mode} for mode in ("transductive", "inductive")]
    assert "| Omniglot | 5-way 1-shot | 100.0 ± 0.0" in path.with_suffix(".md").read_text()
    known = omniglot_protonet.characters()[0]
    for seed, same in ((0, True), (1, False)):
        pairs = zip(*map(jax.tree.leaves, (learned[0], train(known, 2, 2e-3, seed))), strict=True)
        assert all((a == b).all() for a, b in pairs) is same
