"""Name tables: every name on both sides is accounted for, and a table reads backwards."""

import time
from threading import Barrier, get_ident

import ml_dtypes
import numpy as np
import pytest

from jtl.weights import Rule, WeightFileError, WeightNameError, convert, export
from jtl.weights.mapping.convert import READERS
from jtl.weights.mapping.transforms import conv, dense, split

TABLE = [
    Rule(r"(?:module\.)?layer(\d+)\.(?:conv|c)\.weight", r"block\1/conv/kernel", conv),
    Rule(r"(?:module\.)?layer(\d+)\.(?:conv|c)\.bias", r"block\1/conv/bias"),
    Rule(r"qkv\.weight", ("attn/query/kernel", "attn/key/kernel", "attn/value/kernel"), split(3, dense)),
    Rule(r"fc\.weight", "head/kernel", dense),
    Rule(r"fc\.bias", "head/bias"),
    Rule(r".*\.num_batches_tracked", None),
]


def tensors(**changes):
    rng = np.random.default_rng(0)
    shapes = {
        "layer1.conv.weight": (4, 3, 2, 5),
        "layer1.conv.bias": (4,),
        "qkv.weight": (12, 6),
        "fc.weight": (7, 4),
        "fc.bias": (7,),
    }
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    made["bn.num_batches_tracked"] = np.array(3)
    made.update(changes)
    return {k: v for k, v in made.items() if v is not None}


def params(classes=7):
    f = np.float32
    return {
        "block1": {"conv": {"kernel": np.zeros((2, 5, 3, 4), f), "bias": np.zeros(4, f)}},
        "attn": {k: {"kernel": np.zeros((6, 4), f)} for k in ("query", "key", "value")},
        "head": {"kernel": np.zeros((4, classes), f), "bias": np.full(classes, 9, f)},
    }


def test_every_tensor_lands_where_the_table_says():
    source = tensors()
    loaded, report = convert(source, TABLE, params())
    kernel = loaded["block1"]["conv"]["kernel"]
    assert all(
        kernel[h, w, i, o] == source["layer1.conv.weight"][o, i, h, w]
        for o in range(4)
        for i in range(3)
        for h in range(2)
        for w in range(5)
    )
    np.testing.assert_array_equal(loaded["attn"]["key"]["kernel"], source["qkv.weight"][4:8].T)
    np.testing.assert_array_equal(loaded["head"]["kernel"], source["fc.weight"].T)
    assert len(report.loaded) == 7
    assert report.unused == ["bn.num_batches_tracked"]
    assert "7 parameters loaded, 0 re-initialised on request, 1 tensors" in report.summary
    assert "block1/conv/kernel  2x5x3x4  layer1.conv.weight" in str(report)


def test_the_table_reads_backwards_bit_by_bit():
    source = tensors()
    loaded, _ = convert(source, TABLE, params())
    back = export(loaded, TABLE)
    del source["bn.num_batches_tracked"]
    assert set(back) == set(source)
    for name, value in back.items():
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, source[name], err_msg=name)
    with pytest.raises(WeightNameError, match="no rule of the table gives the parameter 'lora/a'"):
        export({"lora": {"a": np.zeros(1)}}, TABLE)
    with pytest.raises(WeightNameError, match="needs attn/query/kernel, attn/value/kernel beside"):
        export({"attn": {"key": {"kernel": np.zeros((2, 2))}}}, TABLE)
    with pytest.raises(WeightNameError, match="loses a group"):
        export({"a": np.zeros(1)}, [Rule(r"x(\d)", "a")])
    with pytest.raises(WeightNameError, match="outside its groups"):
        export({"a": np.zeros(1)}, [Rule(r"x.*", "a")])


def test_the_other_spellings_are_read_too():
    source = {f"module.{k}".replace("conv", "c") if "layer" in k else k: v for k, v in tensors().items()}
    loaded, _ = convert(source, TABLE, params())
    np.testing.assert_array_equal(loaded["block1"]["conv"]["bias"], source["module.layer1.c.bias"])


def test_a_new_head_keeps_its_values_and_the_old_one_is_reported_unused():
    fresh = params(classes=3)
    for pattern in ("head/.*", "head/*"):
        loaded, report = convert(tensors(), TABLE, fresh, reinit=(pattern,))
        np.testing.assert_array_equal(loaded["head"]["bias"], np.full(3, 9))
        assert report.reinit == ["head/kernel", "head/bias"]
        assert report.unused == ["fc.weight", "fc.bias", "bn.num_batches_tracked"]
    absent = tensors(**{"fc.weight": None, "fc.bias": None})
    assert len(convert(absent, TABLE, fresh, reinit=("head/.*",))[1].loaded) == 5


def test_everything_that_does_not_fit_is_listed_at_once():
    source = tensors(**{"layer1.conv.bias": None, "fc.bias": np.zeros(5, np.float32)})
    source.update({"layer2.conv.bias": np.zeros(4, np.float32), "pooler.weight": np.zeros(2)})
    with pytest.raises(WeightNameError) as caught:
        convert(source, TABLE, params())
    message = str(caught.value)
    assert "head/bias: the model has shape (7,), the file gives (5,); from fc.bias" in message
    assert "1 parameters are missing from the file" in message
    assert "block1/conv/bias; nearest: 'layer2.conv.bias (as block2/conv/bias)'" in message
    assert "2 tensors of the file have no parameter" in message
    assert "layer2.conv.bias (as block2/conv/bias); nearest: 'block1/conv/bias'" in message
    assert "\n  pooler.weight" in message
    fixed = tensors()
    fixed["pooler.weight"] = np.zeros(2)
    report = convert(fixed, TABLE, params(), unused=(r"pooler\..*",))[1]
    assert report.unused == ["bn.num_batches_tracked", "pooler.weight"]


def test_wrong_requests_and_wrong_shapes_name_both_sides():
    with pytest.raises(WeightNameError, match=r"reinit: 'haed/.\*' matches none of the 7 parameters; nearest: 'head"):
        convert(tensors(), TABLE, params(), reinit=("haed/.*",))
    with pytest.raises(WeightNameError, match="unused: 'x' matches none of the 6 tensors of the file"):
        convert(tensors(), TABLE, params(), unused=("x",))
    with pytest.raises(TypeError, match="give a tuple of regexes"):
        convert(tensors(), TABLE, params(), reinit="head/.*")
    with pytest.raises(WeightNameError, match=r"qkv.weight \(11, 6\) cannot become .*3 equal parts"):
        convert(tensors(**{"qkv.weight": np.zeros((11, 6), np.float32)}), TABLE, params())
    twice = tensors(**{"module.layer1.c.bias": np.zeros(4, np.float32)})
    with pytest.raises(WeightNameError, match=r"both layer1.conv.bias and module.layer1.c.bias"):
        convert(twice, TABLE, params())
    with pytest.raises(WeightNameError, match="the model has float32, the file gives int64"):
        convert(tensors(**{"fc.bias": np.zeros(7, np.int64)}), TABLE, params())


def test_where_one_reader_fails_the_others_stop():
    """Else a file that is cut short is read to its end before that is told."""
    seen = []

    class Damaged(dict):
        def __getitem__(self, name):
            seen.append(name)
            if name == "t2":
                raise WeightFileError("cut short")
            time.sleep(0.001)
            return super().__getitem__(name)

    tensors = Damaged({f"t{i}": np.zeros(2, np.float32) for i in range(500)})
    with pytest.raises(WeightFileError, match="cut short"):
        convert(tensors, [Rule("(.*)", r"\1")], {name: np.ones(2, np.float32) for name in tensors})
    assert 3 <= len(seen) < 250


@pytest.mark.parametrize(("cores", "readers"), [(None, 2), (1, 2), (2, 3), (64, READERS)])
def test_one_reader_more_than_cores_reads(cores, readers, monkeypatch):
    """Each waits in its first tensor until all have one."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    together, seen = Barrier(readers, timeout=20), set()

    def finish(path, array):
        if get_ident() not in seen:
            seen.add(get_ident())
            together.wait()
        return array

    names = {f"t{i}": np.full(2, i, np.float32) for i in range(2 * READERS)}
    loaded, _ = convert(names, [Rule("(.*)", r"\1")], names, finish=finish)
    assert len(seen) == readers
    assert {name: array[0] for name, array in loaded.items()} == {f"t{i}": i for i in range(2 * READERS)}


def test_floats_take_the_number_type_of_the_model():
    half = {k: v.astype(ml_dtypes.bfloat16) if v.dtype.kind == "f" else v for k, v in tensors().items()}
    loaded, _ = convert(half, TABLE, params())
    assert loaded["head"]["bias"].dtype == np.float32
    np.testing.assert_array_equal(loaded["head"]["bias"], half["fc.bias"].astype(np.float32))
