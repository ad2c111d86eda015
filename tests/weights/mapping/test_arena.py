"""Memory for many arrays: each has its own part, and what is kept of a network keeps no more than its slabs."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
from safetensors.numpy import save_file

from jtl.weights import Rule, convert, read
from jtl.weights.mapping.arena import SLAB, SMALL, Slabs
from jtl.weights.mapping.transforms import dense

MB = 1 << 20


def owner(array):
    """The array whose memory this one is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def leaf(count, dtype=np.float32):
    return jax.ShapeDtypeStruct((count,), dtype)


def test_every_array_has_a_part_of_its_own():
    rng = np.random.default_rng(0)
    types = (np.float32, np.float16, np.int64, np.int8)
    leaves = {f"x{i}": leaf(int(rng.integers(0, MB)), types[i % 4]) for i in range(60)} | {"big": leaf(SLAB // 2)}
    slabs = Slabs(leaves)

    def made(path, value):
        array = slabs.empty(path, leaves[path].shape, np.dtype(leaves[path].dtype))
        array[...] = value
        return array

    with ThreadPoolExecutor(8) as threads:
        arrays = dict(zip(leaves, threads.map(made, leaves, range(len(leaves))), strict=True))
    for i, (path, like) in enumerate(leaves.items()):
        assert arrays[path].shape == like.shape
        assert arrays[path].dtype == like.dtype
        assert arrays[path].ctypes.data % 64 == 0
        assert (arrays[path] == i).all()
    slabs_used = {id(owner(a)): owner(a).nbytes for a in arrays.values() if a.nbytes >= SMALL}
    assert len(slabs_used) < 10  # of 60 arrays
    assert sum(slabs_used.values()) < sum(a.nbytes + 128 for a in arrays.values())


def test_who_keeps_an_array_keeps_its_slab_alone():
    """And who keeps small ones keeps none."""
    leaves = {f"x{i}": leaf(3 * MB) for i in range(6)} | {"bias": leaf(SMALL // 4 - 1), "edge": leaf(SMALL // 4)}
    slabs = Slabs(leaves)
    arrays = {path: slabs.empty(path, like.shape, np.dtype(like.dtype)) for path, like in leaves.items()}
    memory = {path: weakref.ref(owner(array)) for path, array in arrays.items()}
    assert memory["x0"]() is memory["x1"]() is not memory["x2"]() is memory["x3"]()
    assert memory["edge"]() is memory["x5"]()
    assert memory["bias"]().nbytes < SMALL + 64
    kept = arrays["x3"], arrays["bias"]
    del slabs, arrays
    gc.collect()
    assert [path for path, held in memory.items() if held() is not None] == ["x2", "x3", "bias"]
    assert all(held() is None or held().nbytes <= SLAB + 64 for held in memory.values())
    del kept


def test_a_network_is_read_into_slabs(tmp_path):
    """Kernels turned, or cut from one, lie side by side; what is not asked for takes no memory."""
    rng = np.random.default_rng(0)
    kernels = {f"k{i}": rng.normal(size=(256, 384)).astype(np.float32) for i in range(3)}
    save_file(kernels | {"bias": np.ones(384, np.float32)}, tmp_path / "x.safetensors")
    table = [Rule(r"(k[01])", r"\1", dense), Rule("k2", "k2"), Rule("bias", "bias")]
    wanted = {name: np.zeros((384, 256), np.float32) for name in ("k0", "k1")}
    wanted |= {"k2": np.zeros((256, 384), np.float32), "bias": np.zeros(384, np.float32)}
    take = partial(convert, read(tmp_path / "x.safetensors"), table, wanted)
    loaded, _ = take()
    assert owner(loaded["k0"]) is owner(loaded["k1"]) is owner(loaded["k2"]) is not owner(loaded["bias"])
    np.testing.assert_array_equal(loaded["k1"], kernels["k1"].T)
    few, _ = take(reinit=("k[12]",))
    assert owner(few["k0"]).nbytes < kernels["k0"].nbytes + 128
    assert few["k2"] is wanted["k2"]
