"""Laws of reading and naming, on arrays, names and tables of any kind."""

import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import dims, law, seeds, words
from safetensors.numpy import save_file

from jtl.params import flatten, unflatten
from jtl.preprocess.image import Preprocessing, from_timm, from_transformers, to_timm, to_transformers
from jtl.weights import Rule, convert, export, read
from jtl.weights.mapping import transforms as t

KINDS = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "<c8"]
names = st.lists(words, min_size=1, max_size=3).map(".".join)


def drawn(seed, shape, kind, fortran=False):
    """Any bits at all, but for truth values."""
    dtype = np.dtype(kind)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if kind == "?" else 256, count, np.uint8)
    array = raw.view(dtype).reshape(shape)
    return np.asfortranarray(array) if fortran else array


def arrays(kinds):
    one = st.builds(drawn, seeds, dims, st.sampled_from(kinds), st.booleans())
    return st.dictionaries(names, one, max_size=4)


def same(file, saved):
    assert set(file) == set(saved)
    for name, array in saved.items():
        for found in (file[name], file.view(name)):
            assert found.dtype == array.dtype
            assert found.shape == array.shape == file.entry(name).shape
            assert found.tobytes() == array.tobytes()


@law(60)
@given(saved=arrays([*KINDS, ml_dtypes.bfloat16]))
def test_what_safetensors_writes_is_read(saved, tmp_path):
    assume(saved)
    save_file({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in saved.items()}, tmp_path / "x.safetensors")
    same(read(tmp_path / "x.safetensors"), saved)


@law(60)
@given(saved=arrays([*KINDS, ">f4", ">i8"]), packed=st.booleans())
def test_what_numpy_writes_is_read(saved, packed, tmp_path):
    assume(saved)
    (np.savez_compressed if packed else np.savez)(tmp_path / "x.npz", **saved)
    same(read(tmp_path / "x.npz"), {name: a.astype(a.dtype.newbyteorder("=")) for name, a in saved.items()})


@law(40)
@given(
    saved=arrays(["?", "u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"]),
    form=st.booleans(),
    turned=st.booleans(),
    step=st.integers(1, 2),
)
def test_what_torch_writes_is_read(saved, form, turned, step, tmp_path):
    """Both its formats; transposed and strided views, several in one storage."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    assume(saved)
    tensors = {name: torch.from_numpy(a.copy()) for name, a in saved.items()}
    for name, tensor in list(tensors.items()):
        if tensor.ndim:
            tensors[name] = (tensor.T if tensor.ndim == 2 and turned else tensor)[::step]
            tensors[f"{name}/rest"] = tensor[1:]
    torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=form)
    same(read(tmp_path / "x.pt"), {name: tensor.numpy() for name, tensor in tensors.items()})


LAYOUTS = {  # transform -> a shape of the file, by three sizes
    t.identity: lambda a, b, c: (a, b),
    t.dense: lambda a, b, c: (a, b),
    t.conv: lambda a, b, c: (a, b, c, 2),
    t.depthwise: lambda a, b, c: (a, 1, b, c),
    t.pointwise(): lambda a, b, c: (a, b, 1, 1),
    t.vector(): lambda a, b, c: (a, 1, 1),
    t.flat_dense(2, 1, 3): lambda a, b, c: (a, 6),
    t.flat_conv(2, 1, 3): lambda a, b, c: (a, 2, 1, 3),
    t.merge_axes(1, 2, (2, 3)): lambda a, b, c: (a, 2, 3),
}
SPLIT = t.split(2, t.dense)


@law(80)
@given(
    layout=st.sampled_from(list(LAYOUTS)),
    sizes=st.tuples(*[st.integers(1, 300).map(lambda n: n if n < 5 or n > 290 else n % 7 + 1)] * 3),
    kinds=st.tuples(*[st.sampled_from(["<f2", "<f4", ml_dtypes.bfloat16])] * 2),
    seed=seeds,
)
def test_a_tensor_read_into_its_place_is_the_transformed_one(layout, sizes, kinds, seed, tmp_path):
    """From any number type to any, in every layout: with the file as `Tensors`, and as arrays, which is another way."""
    values = np.random.default_rng(seed).normal(size=LAYOUTS[layout](*sizes)).astype(kinds[0])
    save_file({"x": values}, tmp_path / "x.safetensors")
    wanted = {"y": np.empty(np.shape(layout.forward(values)), kinds[1])}
    for tensors in (read(tmp_path / "x.safetensors"), {"x": values}):
        found, report = convert(tensors, [Rule("x", "y", layout)], wanted)
        assert found["y"].dtype == wanted["y"].dtype
        assert found["y"].flags.c_contiguous
        assert found["y"].tobytes() == layout.forward(values).astype(kinds[1]).tobytes()
        assert report.loaded[0].file_shape == values.shape


groups = st.tuples(
    words, st.sampled_from([*LAYOUTS, SPLIT]), st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=3)
)
"""A word of a name, a layout, and the sizes of each of some layers."""


def network(made, seed):
    """A table of rules with numbers in them, and the parameters of the network that it names."""
    rules, params = [], {}
    rng = np.random.default_rng(seed)
    for i, (word, layout, layers) in enumerate(made):
        parts = ("a", "b") if layout is SPLIT else ("a",)
        paths = tuple(rf"part{i}/layer\1/{part}" for part in parts)
        spelled = rf"(?:model\.)?{re.escape(word)}_{i}\.(\d+)\.w"
        rules.append(Rule(spelled, paths if len(paths) > 1 else paths[0], layout))
        for number, sizes in enumerate(layers):
            shape = (4, 3) if layout is SPLIT else LAYOUTS[layout](*sizes)
            turned = layout.forward(rng.normal(size=shape).astype(np.float32))
            for part, array in zip(parts, turned if layout is SPLIT else [turned], strict=True):
                params[f"part{i}/layer{number}/{part}"] = np.ascontiguousarray(array)
    return rules, unflatten(params)


@law(60)
@given(st.lists(groups, min_size=1, max_size=4), seeds, st.randoms(use_true_random=False))
def test_a_table_read_backwards_and_forwards_changes_nothing(made, seed, rng):
    table, params = network(made, seed)
    file = export(params, table)
    shuffled = dict(rng.sample(list(file.items()), len(file)))
    renamed = {f"model.{name}" if rng.random() < 0.5 else name: array for name, array in shuffled.items()}
    back, report = convert(renamed, table, params)
    assert {path: a.tobytes() for path, a in flatten(back).items()} == {
        path: a.tobytes() for path, a in flatten(params).items()
    }
    assert {loaded.path for loaded in report.loaded} == set(flatten(params))
    again = export(back, table)
    assert {name: a.tobytes() for name, a in again.items()} == {name: a.tobytes() for name, a in file.items()}


channels = st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple)
sides = st.integers(1, 4096)
images = st.builds(
    Preprocessing,
    st.one_of(st.none(), sides, st.tuples(sides, sides)),
    st.one_of(st.none(), sides),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    channels,
    channels,
)


@law(100)
@given(images)
def test_preprocessing_survives_its_files(made):
    assert from_transformers(to_transformers(made)) == made


@law(100)
@given(sides, sides, st.booleans(), channels)
def test_preprocessing_survives_timms_words(a, b, square, mean):
    """A crop of at least a tenth of what was resized, which is the least that is read."""
    side, crop = max(a, b), min(a, b)
    assume(crop / side >= 0.11)
    made = Preprocessing((side, side) if square else side, crop, "bicubic", mean, mean)
    back = from_timm(to_timm(made, len(mean)), made)
    assert back == made._replace(crop=None if square and crop == side else crop)
