"""What a head reads is loaded, saved and restored with it, or the format is refused."""

import jax
import made
import numpy as np
import pytest

from jtl import heads
from jtl.networks import network, part
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.reads import Read, reads, whole
from jtl.train.collect import predict


def test_a_head_on_other_features_comes_back_as_it_was(tmp_path):
    folder = made.folder(tmp_path / "in", made.VIT)
    loaded = load(folder, reads=("stage1", "last"), reinit=("head/.*",), classes=4)
    assert loaded.variables.params["head"]["out"]["kernel"].shape == (24, 4)
    x = np.random.default_rng(0).random((5, 8, 8, 3), np.float32)
    found = loaded.network.apply(loaded.variables, x, train=False)[0]
    features = loaded.backbone.apply(part(loaded.variables, "backbone"), x, train=False)[0]
    wanted = np.concatenate([features["stage1"].mean(1), features["last"].mean(1)], -1)
    np.testing.assert_allclose(found.read, wanted, rtol=1e-5, atol=1e-6)
    save(tmp_path / "out", loaded, format="jtl")
    again = load(tmp_path / "out")
    assert again.head.reads == Read(("stage1", "last"))
    np.testing.assert_array_equal(again.network.apply(again.variables, x, train=False)[0].output, found.output)


def test_a_head_on_every_token_comes_back_too(tmp_path):
    folder = made.folder(tmp_path / "in", made.BERT)
    loaded = load(folder, reads=whole("last"), reinit=("head/.*",), classes=4)
    x = {"ids": np.zeros((2, 5), np.int32), "mask": np.ones((2, 5), bool)}
    assert loaded.network.apply(loaded.variables, x, train=False)[0].output.shape == (2, 5, 4)
    save(tmp_path / "out", loaded, format="jtl")
    assert load(tmp_path / "out").head.reads == whole("last")


@pytest.mark.parametrize("format", ["hf", "timm", "torchvision"])
def test_formats_that_cannot_say_it_are_refused(tmp_path, format):
    loaded = load(made.folder(tmp_path / "in", made.RESNET), reads="last", reinit=("head/.*",))
    with pytest.raises(ValueError, match=r"the head reads \('last',\), which .* cannot say; save it with format='jtl'"):
        save(tmp_path / "out", loaded, format=format)
    plain = load(tmp_path / "in", reads=reads("pooled"))
    save(tmp_path / "out", plain, format="hf")


def test_a_loaded_network_predicts_with_its_variables(tmp_path):
    loaded = load(made.folder(tmp_path / "in", made.RESNET))
    x = np.random.default_rng(0).random((6, 32, 32, 3), np.float32)

    class Rows:
        def __len__(self):
            return 2

        def __getitem__(self, step):
            return {"x": x[3 * step : 3 * step + 3]}

    found = predict(loaded.network, loaded.variables, Rows())
    out = jax.jit(lambda v: loaded.network.apply(v, x, train=False)[0].output)(loaded.variables)
    np.testing.assert_allclose(found, out, rtol=1e-5, atol=1e-5)


def test_what_another_head_reads_is_saved_with_it(tmp_path):
    """Trained on the mean of the tokens and read on the class token, a network of accuracy 0.76 had 0.56."""
    loaded = load(made.folder(tmp_path / "in", made.VIT), classes=2, reinit=("head/.*",))
    head = heads.linear(2, reads="last")
    net, x = network(backbone=loaded.backbone, head=head), np.random.default_rng(0).random((5, 8, 8, 3), np.float32)
    changed = jax.tree.map(lambda leaf: leaf + 0.1, loaded.variables)
    found = net.apply(changed, x, train=False)[0].output
    trained = loaded._replace(head=head)
    save(tmp_path / "out", trained, changed, format="jtl")
    again = load(tmp_path / "out")
    np.testing.assert_array_equal(again.network.apply(again.variables, x, train=False)[0].output, found)
    assert np.abs(loaded.network.apply(changed, x, train=False)[0].output - found).max() > 0.01
    for format in ("hf", "timm"):
        with pytest.raises(ValueError, match=r"the head reads \('last',\), which .* cannot say"):
            save(tmp_path / "no", trained, changed, format=format)
    # and back: what a config said that the head no longer reads is not kept
    back = again._replace(head=heads.linear(2))
    save(tmp_path / "back", back, format="hf")
    assert load(tmp_path / "back").head.reads == Read()
