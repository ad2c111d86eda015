"""ConvNeXt against transformers' on randomised weights, and by the names of timm and torchvision."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import images, renamed, same_bits, tree_of
from safetensors.numpy import load_file, save_file

from jtl.pretrained.load import load
from jtl.pretrained.save import save

CASES = {
    "two stages": ({"depths": (2, 1), "widths": (6, 10)}, (20, 12)),
    "three, odd": ({"depths": (1, 1, 1), "widths": (4, 6, 8), "patch_size": 3}, (31, 26)),
}


@pytest.fixture(params=CASES)
def made(request):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    from hf_convnets import hf_convnext

    options, size = CASES[request.param]
    return hf_convnext(**options), images(size)


def theirs(net, x):
    out = net.convnext(x, output_hidden_states=True)
    found = {f"stage{i}": h for i, h in enumerate(out.hidden_states) if i}
    return found | {
        "last": out.last_hidden_state,
        "pooled": out.pooler_output,
        "logits": net.classifier(out.pooler_output),
    }


@pytest.mark.slow
@pytest.mark.compiling
def test_is_transformers_convnext(made, tmp_path):
    from conv_parity import check, hf_write

    net, x = made
    loaded = check(net, hf_write, lambda p, dtype: load(p, dtype=dtype), theirs, x, tmp_path)
    assert loaded.config.layer_norm_eps == 1e-12


def test_is_written_as_it_was_read(made, tmp_path):
    from conv_parity import written_as_read

    written_as_read(*made, tmp_path)


# timm's and torchvision's names of the same layers, in an order that matters: the first pattern that fits.
TIMM = [
    (r"convnext\.embeddings\.patch_embeddings", "stem.0"),
    (r"convnext\.embeddings\.layernorm", "stem.1"),
    (r"convnext\.encoder\.stages\.(\d+)\.downsampling_layer\.(\d)", r"stages.\1.downsample.\2"),
    (r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv", r"stages.\1.blocks.\2.conv_dw"),
    (r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm", r"stages.\1.blocks.\2.norm"),
    (r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.pwconv(\d)", r"stages.\1.blocks.\2.mlp.fc\3"),
    (r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
    (r"convnext\.layernorm", "head.norm"),
    (r"classifier", "head.fc"),
]


def torchvision_name(name):
    """By torchvision's `features` list: stem, stage, step, stage, step, ..."""
    name = name.replace("convnext.embeddings.patch_embeddings", "features.0.0")
    name = name.replace("convnext.embeddings.layernorm", "features.0.1")
    name = name.replace("convnext.layernorm", "classifier.0").replace("classifier.weight", "classifier.2.weight")
    name = name.replace("classifier.bias", "classifier.2.bias")
    found = re.fullmatch(r"convnext\.encoder\.stages\.(\d+)\.(.*)", name)
    if not found:
        return name
    stage, rest = int(found[1]), found[2]
    if rest.startswith("downsampling_layer"):
        return f"features.{2 * stage}.{rest.removeprefix('downsampling_layer.')}"
    _, block, part, *leaf = rest.split(".")
    if part == "layer_scale_parameter":
        return f"features.{2 * stage + 1}.{block}.layer_scale"
    number = {"dwconv": 0, "layernorm": 2, "pwconv1": 3, "pwconv2": 5}[part]
    return f"features.{2 * stage + 1}.{block}.block.{number}.{leaf[0]}"


def timm_name(name):
    for pattern, new in TIMM:
        if re.match(pattern, name):
            return re.sub(pattern, new, name)
    raise AssertionError(name)


@pytest.mark.parametrize(("naming", "size"), [("timm", "tiny"), ("timm", "atto"), ("torchvision", "tiny")])
def test_the_names_of_others(naming, size, tmp_path):
    """The same tensors by other names are the same network, and go back bit by bit."""
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from hf_convnets import hf_convnext

    net = hf_convnext((1, 2, 1, 1), (4, 4, 6, 6))
    net.save_pretrained(tmp_path / "in")
    state = {}
    for name, value in load_file(tmp_path / "in" / "model.safetensors").items():
        if naming == "torchvision":
            value = value.reshape(-1, 1, 1) if name.endswith("layer_scale_parameter") else value
            state[torchvision_name(name)] = value
        else:  # the small sizes' dense layers are 1x1 convolutions
            maps = size == "atto" and re.search(r"pwconv\d\.weight", name)
            state[timm_name(name)] = value[..., None, None] if maps else value
    save_file(state, tmp_path / "theirs.safetensors")
    changes = {"depths": [1, 2, 1, 1], "dims": [4, 4, 6, 6]}
    arch = {"architecture": f"convnext_{size}.fb_in1k", "model_args": changes}
    loaded = load(tmp_path / "theirs.safetensors", arch=arch)
    assert loaded.naming == naming
    assert loaded.config.layer_norm_eps == 1e-6
    jax.tree.map(np.testing.assert_array_equal, tree_of(loaded), tree_of(load(tmp_path / "in")))
    same_bits(renamed(loaded, naming), state)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(loaded.variables.params))
    save(tmp_path / "hf", loaded)
    same_bits(load_file(tmp_path / "hf" / "model.safetensors"), load_file(tmp_path / "in" / "model.safetensors"))
    same_bits(renamed(load(tmp_path / "hf"), naming), state)  # the folder says what timm's layers are
