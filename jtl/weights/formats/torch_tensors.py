"""The allow-list of names in a PyTorch file, and their replacements without PyTorch."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jtl.weights.formats.errors import WeightFileError, show
from jtl.weights.formats.lazy_tensors import Entry, stored
from jtl.weights.formats.source import ByteSource, check_shape

# PyTorch's `expand` repeats numbers without memory; a tensor may exceed its storage by so many bytes
MAX_EXPANDED = 64 << 20


class Kind(NamedTuple):
    """A number type of PyTorch."""

    dtype: np.dtype


class Storage(NamedTuple):
    """A run of numbers in the file; its start is known once the container is read."""

    key: str
    dtype: np.dtype
    numbers: int

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return self.numbers * self.dtype.itemsize


class TensorView(NamedTuple):
    """A strided view into a storage; sizes and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugate: bool
    negative: bool

    def entry(self, source: ByteSource, starts: Mapping[str, int]) -> Entry:
        """The entry that reads it from the file `source`, whose storages start at `starts`."""
        if self.strides != _contiguous(self.shape) or self.conjugate or self.negative:
            return Entry(self.shape, self.dtype, partial(self.read, source, starts))
        return stored(source, starts[self.storage.key] + self.offset * self.dtype.itemsize, self.shape, self.dtype)

    def read(self, source: ByteSource, starts: Mapping[str, int]) -> np.ndarray:
        """Reads the numbers from the file `source`, whose storages start at `starts`."""
        item = self.dtype.itemsize
        span = _span(self.shape, self.strides)
        flat = source.array(starts[self.storage.key] + self.offset * item, (span,), self.dtype)
        if self.strides == _contiguous(self.shape):
            array = flat.reshape(self.shape)
        else:
            steps = tuple(s * item for s in self.strides)
            array = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        array = np.conjugate(array) if self.conjugate else array
        return np.negative(array) if self.negative else array


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The number of elements of its storage that a view spans."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _view(storage: object, offset: object, size: object, stride: object, kind: object, flags: object) -> TensorView:
    if not isinstance(storage, Storage) or not isinstance(kind, Kind):
        raise WeightFileError(f"a tensor is built from {show(storage)} of {show(kind)}, not from a storage")
    what = f"a tensor in storage {show(storage.key)}"
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise WeightFileError(f"{what} has a size and a stride that are no tuples of one length")
    shape = check_shape(size, kind.dtype.itemsize, what)
    if not all(type(step) is int and 0 <= step < 1 << 56 for step in stride):
        raise WeightFileError(f"{what} has a stride of {', '.join(map(show, stride))}; strides are integers >= 0")
    strides = stride if prod(shape) else _contiguous(shape)
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise WeightFileError(f"{what} starts at {show(offset)}; an offset is an integer >= 0")
    item = kind.dtype.itemsize
    needed = (offset + _span(shape, strides)) * item
    if needed > storage.nbytes and prod(shape):
        raise WeightFileError(f"{what} reaches to byte {show(needed)} of {storage.nbytes}")
    if prod(shape) * item > storage.nbytes + MAX_EXPANDED:
        raise WeightFileError(f"{what} expands {storage.nbytes} bytes to {show(prod(shape) * item)}; that is refused")
    known = {"conj": False, "neg": False}
    if flags is not None:
        if not isinstance(flags, dict) or not set(flags) <= set(known):
            raise WeightFileError(f"{what} carries flags other than conj and neg")
        known.update({str(k): bool(v) for k, v in flags.items()})
    return TensorView(storage, kind.dtype, offset if prod(shape) else 0, shape, strides, known["conj"], known["neg"])


def _tensor_v1(args: tuple) -> object:
    storage, offset, size, stride = args
    return _view(storage, offset, size, stride, _own_kind(storage), None)


def _tensor_v2(args: tuple) -> object:
    storage, offset, size, stride, _grad, _hooks, *flags = args
    (flags,) = flags or [None]
    return _view(storage, offset, size, stride, _own_kind(storage), flags)


def _tensor_v3(args: tuple) -> object:
    storage, offset, size, stride, _grad, _hooks, kind, *flags = args
    (flags,) = flags or [None]
    return _view(storage, offset, size, stride, kind, flags)


def _own_kind(storage: object) -> object:
    return Kind(storage.dtype) if isinstance(storage, Storage) else storage


def _parameter(args: tuple) -> object:
    tensor, _grad, _hooks = args
    if not isinstance(tensor, TensorView):
        raise WeightFileError(f"a parameter is built from {show(tensor)}, not from a tensor")
    return tensor


def _ordered(args: tuple) -> object:
    if args:
        raise WeightFileError("an OrderedDict is built from a list; only PyTorch's own spelling is read")
    return {}


def _size(args: tuple) -> object:
    (sizes,) = args
    if not isinstance(sizes, (tuple, list)):
        raise WeightFileError(f"a torch.Size is built from {show(sizes)}")
    return check_shape(sizes, 1, "a torch.Size")


def _device(args: tuple) -> object:
    if not all(isinstance(a, (str, int)) for a in args):
        raise WeightFileError("a torch.device is built from something other than a name and a number")
    return ":".join(map(str, args))


class Builder(NamedTuple):
    """A function that a file may call, by its name in PyTorch."""

    name: str
    build: Callable[[tuple], object]


_DTYPES: dict[str, Any] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": ml_dtypes.bfloat16,
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "?",
    "complex64": "<c8",
    "complex128": "<c16",
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_BUILDERS = {
    ("torch._utils", "_rebuild_tensor"): _tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): _ordered,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
}

ALLOWED: dict[tuple[str, str], Kind | Builder] = {
    **{key: Builder(".".join(key), build) for key, build in _BUILDERS.items()},
    **{("torch", name): Kind(np.dtype(spec)) for name, spec in _DTYPES.items()},
    **{
        (module, name): Kind(np.dtype(_DTYPES[kind]))
        for name, kind in _STORAGES.items()
        for module in ("torch", "torch.storage")
    },
}
