"""Weights straight onto a mesh of eight devices: the same numbers, each device its slice, no whole copy on the way."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from jtl import backbones, heads
from jtl.backbones.registry import FAMILIES
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.train import fsdp, jit_step, make_step, mesh, replicate, variables_sharding
from jtl.weights import export, read
from jtl.weights.mapping.convert import READERS

CONFIG = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
}
RULES = (("head/.*", replicate), (".*", fsdp(min_bytes=512)))


@pytest.fixture(scope="module")
def tensors():
    family = FAMILIES["vit"]
    config = family.complete(CONFIG, "transformers")
    rng = np.random.default_rng(0)
    made = jax.eval_shape(
        lambda key, x: network(backbone=family.backbone(config), head=heads.linear(3)).init(key, x),
        jax.random.key(0),
        family.example(config),
    )
    tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), made.params)
    return export(tree, family.tables(config)["transformers"])


def written(folder, tensors, form):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if form == "bf16":
        tensors = {name: a.astype(ml_dtypes.bfloat16) for name, a in tensors.items()}
    if form != "sharded by index":
        save_file(tensors, folder / "model.safetensors")
        return folder
    halves = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(("form", "dtype"), [("bf16", jnp.float32), ("float32", jnp.bfloat16)])
def test_channels_are_summed_before_they_are_rounded_on_a_mesh_too(form, dtype, tensors, tmp_path):
    folder = written(tmp_path, tensors, form)
    kernel = next(a for name, a in tensors.items() if name.endswith("patch_embeddings.projection.weight"))
    kernel = kernel.astype(ml_dtypes.bfloat16).astype(np.float32) if form == "bf16" else kernel
    expected = kernel.sum(1, keepdims=True).transpose(2, 3, 1, 0).astype(dtype)
    for sharding in (None, SingleDeviceSharding(jax.devices()[1])):
        found = load(folder, dtype=dtype, in_chans=1, sharding=sharding).variables.params["backbone"]["embed"]["kernel"]
        np.testing.assert_array_equal(np.asarray(found).reshape(expected.shape), expected)


@pytest.mark.parametrize("form", ["float32", "bf16", "sharded by index"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_each_device_has_its_slice_of_the_ordinary_load(form, dtype, tensors, tmp_path):
    grid = mesh(data=2, fsdp=4)
    folder = written(tmp_path, tensors, form)
    whole = flatten(load(folder, dtype=dtype).variables.params)
    placed = flatten(load(folder, dtype=dtype, sharding=variables_sharding(grid, RULES)).variables.params)
    assert list(placed) == list(whole)
    cut = 0
    for path, leaf in placed.items():
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == whole[path].dtype == dtype
        rule = replicate if path.startswith("head/") else fsdp(min_bytes=512)
        assert leaf.sharding == NamedSharding(grid, rule(leaf.shape, grid))
        assert len(leaf.addressable_shards) == 8
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[path][shard.index], err_msg=path)
        cut += leaf.addressable_shards[0].data.size < leaf.size
    assert cut == 13  # six kernels in each block, and the patches'


def test_a_new_head_and_other_channels_on_the_mesh(tensors, tmp_path, key):
    """What is drawn is drawn in its place, and as without a mesh."""
    folder = written(tmp_path, tensors, "float32")
    asked = {"classes": 8, "reinit": ("head/.*",), "in_chans": 4, "key": key}
    where = variables_sharding(mesh(data=1, fsdp=8), [(".*", fsdp(min_bytes=256))])
    whole, placed = load(folder, **asked), load(folder, **asked, sharding=where)
    jax.tree.map(np.testing.assert_array_equal, placed.variables, whole.variables)
    assert placed.variables.params["head"]["out"]["kernel"].addressable_shards[0].data.size == 16
    assert placed.variables.params["backbone"]["embed"]["kernel"].shape[-2] == 4
    assert placed.report == whole.report


def test_statistics_are_whole_on_every_device_and_an_npz_is_cut_too(tmp_path):
    grid = mesh(data=4, fsdp=2)
    rng = np.random.default_rng(0)
    config = {"model_type": "resnet", "depths": [1], "hidden_sizes": [8], "embedding_size": 8, "layer_type": "basic"}
    family = FAMILIES["resnet"]
    full = family.complete(config, "transformers")
    made = jax.eval_shape(
        lambda key, x: network(backbone=family.backbone(full), head=heads.linear(2)).init(key, x),
        jax.random.key(0),
        family.example(full),
    )
    made = {**made.params, "stats": made.stats}
    tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), made)
    np.savez(tmp_path / "x.npz", **export(tree, family.tables(full)["transformers"]))
    where = variables_sharding(grid, [(".*", fsdp(min_bytes=0))])
    placed = load(tmp_path / "x.npz", arch=config, sharding=where).variables
    jax.tree.map(np.testing.assert_array_equal, placed.params, {k: v for k, v in tree.items() if k != "stats"})
    jax.tree.map(np.testing.assert_array_equal, placed.stats, tree["stats"])
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(placed.stats)} == {PartitionSpec()}
    stem = flatten(placed.params)["backbone/stem/conv/kernel"]
    assert stem.addressable_shards[0].data.size * 2 == stem.size


def test_a_step_on_the_mesh_starts_from_where_the_weights_lie(tensors, tmp_path, key):
    grid = mesh(data=2, fsdp=4)
    loaded = load(written(tmp_path, tensors, "float32"), sharding=variables_sharding(grid, RULES))
    step = make_step(finetune(loaded.network), optax.sgd(0.1))
    _, state = jit_step(step, step.init(loaded.variables, key), grid, RULES)
    for path, leaf in flatten(state.params).items():
        before = flatten(loaded.variables.params)[path]
        assert leaf.sharding == before.sharding
        np.testing.assert_array_equal(leaf, before)


def test_no_whole_copy_is_made_on_the_way(tmp_path):
    """Eight devices of this process hold an eighth each: with them, the host holds the file once and a few slices."""
    table = FAMILIES["vit"].tables
    size = backbones.Size(256, 6, 4, 1024)
    config = {**CONFIG, "hidden_size": size.width, "num_hidden_layers": size.depth, "intermediate_size": size.hidden}
    (tmp_path / "config.json").write_text(json.dumps(config))
    config = FAMILIES["vit"].complete(config, "transformers")
    made = jax.eval_shape(FAMILIES["vit"].backbone(config).init, jax.random.key(0), FAMILIES["vit"].example(config))
    tree = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), {"backbone": made.params})
    save_file(export(tree, table(config)["transformers"]), tmp_path / "model.safetensors")
    file = (tmp_path / "model.safetensors").stat().st_size
    where = variables_sharding(mesh(data=1, fsdp=8), [(".*", fsdp(min_bytes=1 << 12))])
    tracemalloc.start()
    loaded = load(tmp_path, sharding=where)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    small = sum(8 * a.nbytes for a in jax.tree.leaves(loaded.variables) if a.sharding.spec == PartitionSpec())
    slices = READERS * 8 * max(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(loaded.variables))
    most = file + small + slices + (2 << 20)  # the last for Python's own, and jax's trace
    assert peak < most < 1.5 * file


def test_a_place_for_all_and_places_that_lack_one(tensors, tmp_path):
    folder = written(tmp_path, tensors, "float32")
    last = SingleDeviceSharding(jax.devices()[-1])
    loaded = load(folder, sharding=last)
    assert {leaf.sharding for leaf in jax.tree.leaves(loaded.variables)} == {last}
    with pytest.raises(ValueError, match=r"sharding= gives no Sharding for \d+ parameters: backbone/"):
        load(folder, sharding=lambda shapes: Variables({}, {}))
    with pytest.raises(ValueError, match=r"the pattern 'haed/.\*' matches no parameter; the nearest are"):
        load(folder, sharding=variables_sharding(mesh(), [("haed/.*", replicate), (".*", replicate)]))


def test_a_view_is_the_file(tensors, tmp_path):
    written(tmp_path, tensors, "float32")
    file = read(tmp_path)
    for name, value in load_file(tmp_path / "model.safetensors").items():
        view = file.view(name)
        assert not view.flags.writeable
        np.testing.assert_array_equal(view, value)
