"""Swin against transformers' on randomised weights, and by the names of timm, torchvision and its own release."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import images, renamed, same_bits, tree_of
from safetensors.numpy import load_file, save_file
from scipy.stats import norm

from jtl import backbones
from jtl.backbones.registry import FAMILIES
from jtl.pretrained.load import load

CASES = {
    # Maps of 8x12 tokens in windows of 4, and of 4x6, the smaller side of which is the window: no shift.
    "whole windows": ({"window_size": 4, "patch_size": 2, "mlp_ratio": 2.0}, (16, 24)),
    # 11x8 tokens, filled up to 12x9, then 6x4 filled up to 6x6; and the images to whole patches.
    "odd": ({"width": 8, "depths": (2, 2), "heads": (1, 4), "window_size": 3, "patch_size": 3}, (31, 23)),
}


@pytest.fixture(params=CASES)
def made(request):
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    from torch_vits import hf_swin

    options, size = CASES[request.param]
    return hf_swin(**options), images(size)


def theirs(net, x):
    """The maps before the steps between the stages, as each stage has them."""
    stages, hooks = {}, []
    for i, stage in enumerate(net.swin.encoder.layers, 1):
        hooks.append(
            stage.blocks[-1].register_forward_hook(lambda _, given, out, i=i: stages.update({i: (out[0], given[1])}))
        )
    out = net.swin(x)
    for hook in hooks:
        hook.remove()
    maps = {f"stage{i}": tokens.unflatten(1, grid) for i, (tokens, grid) in stages.items()}
    maps["last"] = out.last_hidden_state.unflatten(1, stages[len(stages)][1])
    found = {name: h.movedim(-1, 1) for name, h in maps.items()}
    return found | {"pooled": out.pooler_output, "logits": net.classifier(out.pooler_output)}


@pytest.mark.slow
@pytest.mark.compiling
def test_is_transformers_swin(made, tmp_path):
    from conv_parity import check, hf_write

    net, x = made
    loaded = check(net, hf_write, lambda p, dtype: load(p, dtype=dtype), theirs, x, tmp_path)
    assert loaded.naming == "transformers"


def test_is_written_as_it_was_read(made, tmp_path):
    from conv_parity import written_as_read

    written_as_read(*made, tmp_path)


PARTS = [
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.norm", "patch_embed.norm"),
    (r"attention\.self\.relative", "attn.relative"),
    (r"attention\.output\.dense", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    ("layernorm", "norm"),
]


def others(held, naming):
    """transformers' tensors by the names of another library, in which query, key and value are one."""
    state = {}
    for name, value in held.items():
        name = re.sub(r"^(swin\.)?(encoder\.)?", "", name)
        for pattern, new in PARTS:
            name = re.sub(pattern, new, name)
        name = name.replace("classifier", "head.fc" if naming == "timm" else "head")
        if naming == "timm":
            name = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        if naming == "torchvision":
            name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
            name = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"features.{2 * int(m[1]) + 2}", name)
            name = re.sub(r"layers\.(\d+)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}", name)
            name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        state[name] = value
    found = {}
    for name, value in state.items():
        if ".query." in name:
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            found[name.replace("attention.self.query", "attn.qkv")] = np.concatenate(parts)
        elif ".key." not in name and ".value." not in name:
            found[name] = value
    return found


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("naming", ["timm", "torchvision", "original"])
def test_the_names_of_others(naming, head, tmp_path):
    """The same tensors by other names are the same network, and go back bit by bit."""
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    from torch_vits import hf_swin

    net = hf_swin(depths=(2, 1, 1), heads=(1, 2, 3), window_size=3)
    net.save_pretrained(tmp_path / "in")
    state = others(load_file(tmp_path / "in" / "model.safetensors"), naming)
    state = state if head else {name: value for name, value in state.items() if not name.startswith("head")}
    index = (
        {}
        if naming == "timm"
        else {
            name.replace("bias_table", "index"): np.zeros((9, 9), np.int64) for name in state if name.endswith("table")
        }
    )
    save_file(state | index, tmp_path / "theirs.safetensors")
    changes = {"depths": [2, 1, 1], "num_heads": [1, 2, 3], "embed_dim": 6, "window_size": 3}
    arch = {"architecture": "swin_tiny_patch4_window7_224.ms_in1k", "model_args": changes}
    loaded = load(tmp_path / "theirs.safetensors", arch=arch)
    assert loaded.naming == naming
    assert sorted(loaded.report.unused) == sorted(index)
    wanted = tree_of(load(tmp_path / "in"))
    wanted = wanted if head else {**wanted, "head": {}}
    jax.tree.map(np.testing.assert_array_equal, tree_of(loaded), wanted)
    same_bits(renamed(loaded, naming), state)


def test_a_map_smaller_than_the_window_is_one_window_with_the_middle_of_the_table(key):
    """Differences of at most one row and column: those of a network whose windows have two."""
    large, small = (backbones.swin((6, [(2, 2)]), window=window, patch=1) for window in (4, 2))
    x = images((2, 3))
    variables, draw = jax.eval_shape(large.init, key, x), np.random.default_rng(0)
    params = jax.tree.map(lambda a: draw.normal(size=a.shape).astype(a.dtype), variables.params)
    middle = jax.tree.map(lambda a: a, params)
    for block in ("block1", "block2"):
        table = params["stage1"][block]["position"].reshape(7, 7, 2)
        middle["stage1"][block]["position"] = table[2:5, 2:5].reshape(9, 2)

    def run(net, params):
        return jax.jit(lambda p: net.apply(variables._replace(params=p), x, train=False)[0]["pooled"])(params)

    np.testing.assert_array_equal(run(large, params), run(small, middle))


def test_sizes_that_make_no_network_are_refused():
    for size, message in (((6, [(1, 4)]), "no multiple of heads=4"), ((6, []), "at least one stage")):
        with pytest.raises(ValueError, match=message):
            backbones.swin(size)
    with pytest.raises(ValueError, match="drop_path=1"):
        backbones.swin("T", drop_path=1.0)


def test_published_size():
    """28,288,354 parameters with 1000 classes, as timm, torchvision and the paper's 29 million have it."""
    net = backbones.swin("T")
    made = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(a.size for a in jax.tree.leaves(made.params)) + 769 * 1000 == 28_288_354


def torchvision_attention(x, params, heads, window, shifted):
    """One block's attention by torchvision's rules, window by window: full windows, and a shift decided per axis."""
    rows, columns, width = x.shape
    filled = [-(-n // window) * window for n in (rows, columns)]
    maps = np.zeros((*filled, width))
    maps[:rows, :columns] = x
    by = [window // 2 if shifted and window < n else 0 for n in filled]
    # Where each token of the rolled map was, and whether two tokens of a window are on the same side of the seam.
    at = [np.roll(np.arange(n), -b) for n, b in zip(filled, by, strict=True)]
    out = np.zeros((*filled, width))
    table = params["position"].reshape(2 * window - 1, 2 * window - 1, heads)
    dense = {name: params["attention"][name] for name in ("query", "key", "value", "out")}
    for i in range(0, filled[0], window):
        for j in range(0, filled[1], window):
            places = [(a, b) for a in range(i, i + window) for b in range(j, j + window)]
            tokens = np.stack([maps[at[0][a], at[1][b]] for a, b in places])
            q, k, v = (tokens @ d["kernel"].reshape(width, -1) + d["bias"].ravel() for d in list(dense.values())[:3])
            mixed = np.zeros_like(tokens)
            for h in range(heads):
                part = slice(h * width // heads, (h + 1) * width // heads)
                scores = q[:, part] @ k[:, part].T / np.sqrt(width // heads)
                for m, (a, b) in enumerate(places):
                    for n, (c, d) in enumerate(places):
                        scores[m, n] += table[a - c + window - 1, b - d + window - 1, h]
                        across = [
                            by[axis] and (p >= filled[axis] - by[axis]) != (r >= filled[axis] - by[axis])
                            for axis, p, r in ((0, a, c), (1, b, d))
                        ]
                        scores[m, n] += -100.0 * any(across)
                weights = np.exp(scores - scores.max(1, keepdims=True))
                mixed[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
            result = mixed @ dense["out"]["kernel"].reshape(-1, width) + dense["out"]["bias"]
            for (a, b), row in zip(places, result, strict=True):
                out[at[0][a], at[1][b]] = row
    return out[:rows, :columns]


def normalised(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("grid", [(2, 2), (2, 5), (4, 3), (5, 4)])
def test_full_windows_are_torchvisions(key, grid):
    """Maps that are smaller than the window on both axes, on one, as large as it, and larger; two blocks each."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        x = draw.normal(size=(1, *grid, 3))
        net = backbones.swin((6, [(2, 2)]), window=3, patch=1, full_windows=True)
        shapes = jax.eval_shape(net.init, key, x)
        params = jax.tree.map(lambda a: draw.normal(size=a.shape), shapes.params)
        found = net.apply(shapes._replace(params=params), x, train=False)[0]["stage1"][0]
        stem = params["stem"]
        h = normalised(x[0] @ stem["conv"]["kernel"][0, 0] + stem["conv"]["bias"], stem["norm"])
        for name, shifted in (("block1", False), ("block2", True)):
            p = params["stage1"][name]
            h = h + torchvision_attention(normalised(h, p["norm1"]), p, 2, 3, shifted)
            up = normalised(h, p["norm2"]) @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"]
            down = p["mlp"]["down"]
            h = h + (up * norm.cdf(up)) @ down["kernel"] + down["bias"]
        np.testing.assert_allclose(found, h, rtol=1e-9, atol=1e-9)


def test_files_of_torchvision_have_full_windows():
    """A network whose files have torchvision's names computes as torchvision does; those of others do not."""
    config = {"embed_dim": 6, "depths": [1], "num_heads": [2], "window_size": 3, "patch_size": 2}
    found = [FAMILIES["swin"].complete(config, naming).full_windows for naming in ("torchvision", "timm")]
    assert found == [True, None]
