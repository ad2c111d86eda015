"""Networks without a head, saved for transformers, against it."""

import made
import numpy as np
import pytest

from jtl.model import Variables
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights.formats.safetensors import read_safetensors

KINDS = {"vit": made.VIT, "resnet": made.RESNET}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_images_without_a_head_is_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference here")
    torch = pytest.importorskip("torch")
    whole = load(made.folder(tmp_path / "in", KINDS[kind]))
    params, stats = whole.variables
    save(tmp_path / "bare", whole, Variables({"backbone": params["backbone"]}, stats))  # as a headless run gives them
    save(tmp_path / "same", whole, Variables({**params, "head": {}}, stats))
    assert (tmp_path / "bare" / "model.safetensors").read_bytes() == (tmp_path / "same/model.safetensors").read_bytes()
    again = load(tmp_path / "bare")
    side = 32 if kind == "resnet" else 8
    x = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    found = again.network.apply(again.variables, x, train=False)[0]
    assert again.variables.params["head"] == {}
    net, told = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "bare", output_loading_info=True
    )
    assert not any(told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        wanted = net.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).logits.numpy()
    np.testing.assert_allclose(np.asarray(found.features["pooled"]), wanted.reshape(2, -1), rtol=1e-4, atol=1e-5)
    assert not any(name.startswith("classifier") for name in read_safetensors(tmp_path / "bare/model.safetensors"))
