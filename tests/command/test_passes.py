"""A pass in buckets gives each example what it gets alone, in its order."""

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.command import passes
from jtl.command.model import Inputs, inputs_of, pretrained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "##s"]
BERT = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
}
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS[5:10], n)) for i, n in enumerate((3, 40, 9, 1, 20, 61, 2))]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = made.folder(tmp_path_factory.mktemp("net"), BERT)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.fixture(scope="module")
def loaded(encoder):
    return pretrained(str(encoder), ("a", "b"), arch=None, kind="texts", key=jax.random.key(0))


def test_features_in_buckets_are_those_of_every_text_alone(encoder, loaded):
    inputs, _ = inputs_of(loaded, str(encoder), "texts", TEXTS, None)
    shapes, run = [], jax.jit(lambda x: loaded.backbone.apply(own, x, train=False)[0]["mean"])
    own = passes.part(loaded.variables, "backbone")

    def told(x):
        shapes.append(x["ids"].shape)
        return run(x)

    found = passes.through(told, inputs, TEXTS, batch=2)
    assert shapes == [(2, 16), (2, 16), (2, 64), (2, 64)]  # the words of each: 1 2, 3 9, 20 40, 61 and a copy
    for text, row in zip(TEXTS, found, strict=True):
        alone, _ = inputs_of(loaded, str(encoder), "texts", [text], None)
        np.testing.assert_allclose(row, run(alone.read([text]))[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(passes.features(loaded, inputs)(TEXTS), found, rtol=1e-5, atol=1e-5)


def test_padding_is_cut_on_its_side():
    x = {"mask": np.arange(64)[None] >= np.array([[60], [40]]), "ids": np.tile(np.arange(64), (2, 1))}
    found = passes.shortened(x, np.array([0]))
    assert found["ids"].tolist() == [list(range(48, 64))]
    assert passes.shortened(x, np.array([1, 0]))["ids"].shape == (2, 32)
    right = {"mask": x["mask"][:, ::-1], "ids": x["ids"]}
    assert passes.shortened(right, np.array([0]))["ids"].tolist() == [list(range(16))]


def test_a_network_with_other_weights_is_not_compiled_again(encoder, loaded):
    inputs, _ = inputs_of(loaded, str(encoder), "texts", TEXTS[:1], None)
    traced = []

    def apply(*args, **options):
        traced.append(args)
        return loaded.backbone.apply(*args, **options)

    one = loaded._replace(backbone=loaded.backbone._replace(apply=apply))
    other = one._replace(variables=jax.tree.map(lambda a: 2 * a, one.variables))
    for of in (passes.logits, passes.features):
        traced.clear()
        found = [of(net, inputs)(TEXTS[:1]) for net in (one, other, one)]
        assert len(traced) == 1
        np.testing.assert_array_equal(found[0], found[2])
        assert not np.allclose(found[0], found[1])


def test_weights_go_to_the_device_once(loaded):
    x = {"ids": jnp.ones((32, 16), jnp.int32), "mask": jnp.ones((32, 16), bool)}

    class OnDevice(Inputs):
        def read(self, items, *, margin=1.0):
            return x

    numbers = loaded._replace(variables=jax.tree.map(np.asarray, loaded.variables))
    for of in (passes.logits, passes.features):
        with jax.transfer_guard_host_to_device("disallow"):  # device_put alone may move them, not each call
            assert len(of(numbers, OnDevice())([0] * 70)) == 70  # of three batches


def test_no_examples_are_told(encoder, loaded):
    inputs, _ = inputs_of(loaded, str(encoder), "texts", TEXTS, None)
    with pytest.raises(ValueError, match="no examples"):
        passes.features(loaded, inputs)([])


def test_features_of_a_column_of_texts(encoder, loaded, tmp_path):
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(TEXTS[:3]) + "\n")
    out = tmp_path / "f.npz"
    words = ["features", str(tmp_path / "t.csv"), "--text", "text", "--weights", str(encoder), "--out", str(out)]
    assert cli.main(words) == 0
    inputs, _ = inputs_of(loaded, str(encoder), "texts", TEXTS, None)
    with np.load(out) as found:
        assert found["inputs"].tolist() == TEXTS[:3]
        np.testing.assert_allclose(found["features"], passes.features(loaded, inputs)(TEXTS[:3]), rtol=1e-5, atol=1e-5)


def test_features_want_inputs(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert cli.main(["features", "a.csv", "b.csv", "--text", "text", "--weights", "w"]) == 2
    assert "2 inputs: give one table with the column 'text'" in capsys.readouterr().err
