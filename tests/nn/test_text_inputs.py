"""What inputs of texts may hold, and how positions are counted."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl.nn.text_inputs import check_texts, counted, last_token

SMALL = backbones.Size(8, 1, 2, 12)
NETS = {
    "bert": lambda: backbones.bert(SMALL, vocabulary=20, positions=16),
    "roberta": lambda: backbones.bert(SMALL, vocabulary=20, positions=16, types=1, pad=1),
    "distilbert": lambda: backbones.bert(SMALL, vocabulary=20, positions=16, types=0),
    "gpt2": lambda: backbones.gpt2(SMALL, vocabulary=20, positions=16),
    "llama": lambda: backbones.llama(SMALL, vocabulary=20),
    "recurrent": lambda: backbones.recurrent("gru", backbones.RecurrentSize(4, 5), vocabulary=20),
    "clip": lambda: backbones.clip_text(SMALL, vocabulary=20, positions=6, projection=4, end=1),
    "siglip": lambda: backbones.siglip_text(SMALL, vocabulary=20, positions=6, projection=4),
}
READ = {
    "bert": {"segments", "places"},
    "roberta": {"segments", "places"},
    "distilbert": {"places"},
    "gpt2": {"segments", "places"},
    "llama": {"places"},
}
MASK = np.array([[False, True, True, True], [True, True, True, False], [False, False, False, False]])


@pytest.mark.parametrize("name", NETS)
def test_a_network_without_them_refuses_segments_and_places(name, key):
    net, x = NETS[name](), {"ids": np.ones((1, 3), np.int32), "mask": np.ones((1, 3), bool)}
    for word in ("segments", "places"):
        given = {**x, word: np.zeros((1, 3), np.int32)}
        if word in READ.get(name, ()):
            net.init(key, given)
            continue
        with pytest.raises(ValueError, match=f"the input has '{word}', but this network has no .*: leave '{word}' out"):
            net.init(key, given)
    net.init(key, {**x, "types": np.ones((1, 3), np.int32) * (name == "bert")})


def test_positions_are_counted_over_tokens():
    """By hand: padding has place 0, as in transformers' `generate`."""
    np.testing.assert_array_equal(counted(jnp.asarray(MASK)), [[0, 0, 1, 2], [0, 1, 2, 0], [0, 0, 0, 0]])
    assert counted(jnp.asarray(MASK)).dtype == jnp.int32


def test_the_last_token_is_found_on_either_side():
    x = jnp.arange(24.0).reshape(3, 4, 2)
    np.testing.assert_array_equal(last_token(x, jnp.asarray(MASK)), [[6, 7], [12, 13], [16, 17]])


def test_segments_are_types_by_another_name():
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    for word in ("types", "segments"):
        found = check_texts({"ids": ids, "mask": MASK, word: ids % 2}, ("types", "segments"))
        np.testing.assert_array_equal(found.segments, ids % 2)
    assert check_texts({"ids": ids, "mask": MASK, "types": ids}).segments is None
    with pytest.raises(ValueError, match="'types' and 'segments', two names of the same"):
        check_texts({"ids": ids, "mask": MASK, "types": ids, "segments": ids}, ("types", "segments"))
    with pytest.raises(ValueError, match=r"ids, mask, places have shapes \(3, 4\), \(3, 4\), \(1, 4\): give"):
        check_texts({"ids": ids, "mask": MASK, "places": ids[:1]}, ("places",))
    with pytest.raises(ValueError, match="ids, mask, places are int32, bool, float32: give int32, bool, int32"):
        check_texts({"ids": ids, "mask": MASK, "places": ids * 1.0}, ("places",))


@pytest.mark.parametrize("wrong", [-1, 16])
def test_a_place_of_no_position_is_nan(wrong, key):
    """Neither the last row of the table nor the nearest; where no token is it changes nothing."""
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    x = {"ids": ids, "mask": MASK, "places": np.where(MASK, 1, wrong).astype(np.int32)}
    for name in ("bert", "gpt2"):
        net = NETS[name]()
        v = net.init(key, x)
        assert np.isfinite(net.apply(v, x, train=False)[0]["mean"]).all()
        x["places"][0, 2] = wrong
        found = np.asarray(net.apply(v, x, train=False)[0]["mean"])
        assert np.isnan(found[0]).all()
        assert np.isfinite(found[1:]).all()
        x["places"][0, 2] = 1
