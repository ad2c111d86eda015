"""Files of `torch.save(model.state_dict())`, whose names are others than those of `save_pretrained` since version 5."""

import jax
import numpy as np
import pytest

from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights import read

torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
transformers = pytest.importorskip("transformers", reason="transformers is the reference here")

SIZE = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 8, "patch_size": 4}
NETS = {
    "vit": ("ViT", "ForImageClassification", {**SIZE, "intermediate_size": 20}),
    "deit": ("DeiT", "ForImageClassificationWithTeacher", {**SIZE, "intermediate_size": 20}),
    "dinov2": ("Dinov2", "ForImageClassification", SIZE),
    "registers": ("Dinov2WithRegisters", "ForImageClassification", SIZE),
    "swin": (
        "Swin",
        "ForImageClassification",
        {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16, "patch_size": 2},
    ),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("bare", [False, True])
def test_a_state_dict_is_read_as_the_file_of_the_same_network(kind, bare, tmp_path):
    name, task, sizes = NETS[kind]
    torch.manual_seed(0)
    net = getattr(transformers, name + task)(getattr(transformers, f"{name}Config")(**sizes, num_labels=4))
    net.save_pretrained(tmp_path)
    whole = net.base_model if bare else net
    torch.save(whole.state_dict(), tmp_path / "memory.pth")
    if int(transformers.__version__.split(".")[0]) >= 5:
        assert not set(read(tmp_path / "memory.pth")) <= set(read(tmp_path))
    loaded, config = load(tmp_path), (tmp_path / "config.json").read_text()
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "config.json").write_text(config)
    (tmp_path / "memory.pth").rename(apart / "memory.pth")
    found = load(apart)
    assert found.naming == "transformers"
    wanted, given = (dict(flatten(one.variables.params)) for one in (loaded, found))
    for path in given:
        np.testing.assert_array_equal(given[path], wanted[path], path)
    assert given.keys() == {path for path in wanted if not (bare and path.startswith("head/"))}
    if not bare:
        save(tmp_path / "again", found)  # by the names of files, not of memory
        assert set(read(tmp_path / "again")) <= set(read(tmp_path))
        jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "again").variables, loaded.variables)
