"""Weights whose batch normalisation was folded are told of at once."""

import logging

import jax
import made
import numpy as np

import jtl
from jtl.command.model import pretrained
from jtl.command.saved_network import whole
from jtl.pretrained.folded import folded


def saved(tmp_path, mean):
    """A small ResNet whose running statistics are those of an exporter that folded them, or not."""
    net = jtl.load(made.folder(tmp_path / "resnet", made.RESNET))
    stats = jax.tree_util.tree_map_with_path(
        lambda path, a: np.full_like(a, mean if path[-1].key == "mean" else 1 - 1e-5), net.variables.stats
    )
    jtl.save(tmp_path / "again", net, net.variables._replace(stats=stats), format="jtl")
    return tmp_path / "again"


def test_folded_weights_are_told_and_others_are_not(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "jtl.load"):
        assert folded(jtl.load(saved(tmp_path / "a", 0.0)).variables)
    assert "frozen_stats=True" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "jtl.load"):
        assert not folded(jtl.load(saved(tmp_path / "b", 0.1)).variables)
    assert not caplog.text


def test_the_commands_which_keep_the_statistics_give_no_advice_on_training(tmp_path, caplog):
    """Neither for weights that they start from, nor for saved networks, as of `jtl predict` and `jtl export`."""
    place = saved(tmp_path, 0.0)
    with caplog.at_level(logging.WARNING, "jtl.load"):
        pretrained(str(place), ("a", "b"), arch=None, kind="images", key=jax.random.key(0))
        assert whole(place)
        assert not caplog.text
        jtl.load(place)
    assert "frozen_stats=True" in caplog.text


def test_weights_that_were_never_trained_are_not_folded():
    net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
    variables = net.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    assert not folded(variables)
    shifted = jax.tree_util.tree_map_with_path(
        lambda path, a: a + np.arange(a.size) if path[-1].key == "bias" else a, variables.params
    )
    assert folded(variables._replace(params=shifted))
