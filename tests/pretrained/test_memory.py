"""What loading holds: `jtl.load` of a ViT-B at most 1.3 times its file, a reader a piece beside the result."""

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.backbones.registry import FAMILIES
from jtl.params import flatten
from jtl.weights import Rule, WeightNameError, convert, export, read
from jtl.weights.formats.source import PIECE
from jtl.weights.mapping.convert import READERS
from jtl.weights.mapping.transforms import conv, dense, split

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import sys
import jax
import jtl
from jtl.pretrained.load import load

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

before = peak()
loaded = load(sys.argv[1])
print(len(loaded.report.loaded), peak() - before)
"""


def empty_file(path, tensors):
    """A file of zeros that takes no disk: only its header is written."""
    header, reached = {}, 0
    for name, shape in tensors.items():
        end = reached + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + reached)
    return 8 + len(text) + reached


def vit_b():
    """The names and shapes of ViT-B/16's file, written down from transformers' `ViTForImageClassification`."""
    sizes = {
        "embeddings.cls_token": (1, 1, 768),
        "embeddings.position_embeddings": (1, 197, 768),
        "embeddings.patch_embeddings.projection.weight": (768, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (768,),
        "layernorm.weight": (768,),
        "layernorm.bias": (768,),
    }
    for i in range(12):
        layer = f"encoder.layer.{i}."
        dense = {f"attention.attention.{name}": (768, 768) for name in ("query", "key", "value")}
        dense |= {"attention.output.dense": (768, 768), "intermediate.dense": (3072, 768), "output.dense": (768, 3072)}
        sizes |= {f"{layer}{name}.weight": shape for name, shape in dense.items()}
        sizes |= {f"{layer}{name}.bias": shape[:1] for name, shape in dense.items()}
        for norm in ("layernorm_before", "layernorm_after"):
            sizes |= {f"{layer}{norm}.weight": (768,), f"{layer}{norm}.bias": (768,)}
    return {f"vit.{name}": shape for name, shape in sizes.items()} | {
        "classifier.weight": (1000, 768),
        "classifier.bias": (1000,),
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much a process held at most")
def test_a_vit_b_takes_at_most_1_3_times_its_file(tmp_path):
    """In a process of its own, beyond what its imports held: the result, four pieces, and jax's first trace."""
    size = empty_file(tmp_path / "model.safetensors", vit_b())
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    count, held = map(int, done.stdout.split())
    assert count == 200
    assert size <= held + (1 << 20) < 1.3 * size


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_reader_holds_a_piece_beside_the_result(dtype, tmp_path):
    """Transposed and as it lies, of the model's number type and of another."""
    rng = np.random.default_rng(0)
    tensors = {f"dense{i}": rng.normal(size=(512, 1536)).astype(dtype) for i in range(8)}
    tensors |= {"conv": rng.normal(size=(96, 64, 5, 5)).astype(dtype), "scalar": np.array(3, dtype)}
    save_file(tensors, tmp_path / "x.safetensors")
    table = [Rule(r"(dense\d)", r"\1/x", dense), Rule("(conv)", r"\1/x", conv), Rule("(scalar)", r"\1/x")]
    turned = {n: np.moveaxis(a, (0, 1), (-1, -2)) if a.ndim else a for n, a in tensors.items()}
    wanted = {n: {"x": SimpleNamespace(shape=a.shape, dtype=np.dtype(np.float32))} for n, a in turned.items()}
    result = sum(4 * a.size for a in tensors.values())
    file = read(tmp_path / "x.safetensors")
    tracemalloc.start()
    loaded, _ = convert(file, table, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result + READERS * PIECE + (1 << 20)  # the last for Python's own
    for path, leaf in flatten(loaded).items():
        assert leaf.flags.c_contiguous
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, turned[path.split("/")[0]])
    assert {n: a.tobytes() for n, a in export(loaded, table).items()} == {
        n: a.astype(np.float32).tobytes() for n, a in tensors.items()
    }


def test_what_is_cut_or_computed_is_not_read_in_place(tmp_path):
    """A transform whose inverse is no view of the parameter goes the ordinary way, to the same result."""
    value = np.arange(24, dtype=np.float32).reshape(6, 4)
    save_file({"qkv": value}, tmp_path / "x.safetensors")
    leaf = np.zeros((4, 2), np.float32)
    table = [Rule("qkv", ("q", "k", "v"), split(3, dense))]
    loaded, _ = convert(read(tmp_path / "x.safetensors"), table, {"q": leaf, "k": leaf, "v": leaf})
    np.testing.assert_array_equal(loaded["k"], value[2:4].T)


def test_the_shapes_written_down_are_a_vit_b(tmp_path):
    family = FAMILIES["vit"]
    table = family.tables(family.complete({"model_type": "vit"}, "transformers"))["transformers"]
    assert all(any(re.fullmatch(rule.pattern, name) for rule in table) for name in vit_b())
    assert sum(int(np.prod(shape)) for shape in vit_b().values()) == 86_567_656  # as published


@pytest.mark.parametrize("transform", [dense, conv], ids=["dense", "conv"])
def test_there_is_no_memory_for_what_a_wrong_config_asks_for(transform, tmp_path):
    """A width of 65,536 in a config took 16 GB before the file was seen to have 6."""
    narrow, wide = ((6, 6), (65536, 65536)) if transform is dense else ((6, 6, 3, 3), (3, 3, 65536, 65536))
    save_file({"a": np.zeros(narrow, np.float32)}, tmp_path / "x.safetensors")
    tracemalloc.start()
    with pytest.raises(WeightNameError, match=r"the model has shape .*65536, 65536\), the file gives"):
        convert(
            read(tmp_path / "x.safetensors"),
            [Rule("a", "a", transform)],
            {"a": SimpleNamespace(shape=wide, dtype=np.dtype(np.float32))},
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < PIECE
