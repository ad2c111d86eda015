"""The safetensors format: eight bytes of header length, a JSON header, the numbers.

Every claim of the header is checked before a byte of data is read: types, lengths, and that the tensors cover the rest
of the file exactly once, without a gap or an overlap.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.lazy_tensors import Entry, Tensors, stored
from jtl.weights.formats.source import ByteSource, check_shape

MAX_HEADER = 8 << 20  # bytes
MAX_TENSORS = 30_000  # takes half a second; the largest mixtures of experts have some 90,000, but in 160 files

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def read_safetensors(path: Path) -> Tensors:
    """The tensors of one safetensors file.

    Args:
      path: the file.

    Returns:
      Name to array, read on access; `metadata` holds the header's `__metadata__`.

    Raises:
      WeightFileError: the header is malformed, or does not fit the file's length.
    """
    source = ByteSource(path)
    with in_file(path):
        length = int.from_bytes(source.bytes(0, 8), "little") if source.size >= 8 else source.size
        if length > source.size - 8:
            raise WeightFileError(
                f"the header claims {length} bytes, but the file has {source.size}; it is cut short or no "
                f"safetensors file"
            )
        if length > MAX_HEADER:
            raise WeightFileError(f"the header has {length} bytes; at most {MAX_HEADER} are read")
        header = parse_json(source.bytes(8, length))
        if not isinstance(header, dict):
            raise WeightFileError(f"the header is {show(header)}, not a JSON object")
        metadata = _metadata(header.pop("__metadata__", {}))
        return Tensors(path, _entries(source, header, 8 + length), metadata)


def parse_json(text: bytes) -> object:
    """JSON without repeated keys.

    Raises:
      WeightFileError: it is not JSON, repeats a key, or is nested too deeply.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except WeightFileError:
        raise
    except RecursionError:
        raise WeightFileError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise WeightFileError(f"the JSON cannot be read ({str(error)[:200]})") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise WeightFileError(f"the JSON has the key {show(key)} twice")
        found[key] = value
    return found


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise WeightFileError("__metadata__ must be a JSON object of strings")
    return found


def _entries(source: ByteSource, header: Mapping[str, object], base: int) -> dict[str, Entry]:
    if len(header) > MAX_TENSORS:
        raise WeightFileError(f"the header names {len(header)} tensors; at most {MAX_TENSORS} are read")
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, described in header.items():
        what = f"tensor {show(name)}"
        if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
            raise WeightFileError(f"{what} must be described by exactly dtype, shape and data_offsets")
        dtype = DTYPES.get(described["dtype"]) if isinstance(described["dtype"], str) else None
        if dtype is None:
            raise WeightFileError(f"{what} has dtype {show(described['dtype'])}; those read are {', '.join(DTYPES)}")
        if not isinstance(described["shape"], list):
            raise WeightFileError(f"{what} has {show(described['shape'])} as its shape, not a list")
        shape = check_shape(described["shape"], dtype.itemsize, what)
        start, end = _offsets(described["data_offsets"], what)
        needed = prod(shape) * dtype.itemsize
        if end - start != needed:
            raise WeightFileError(
                f"{what} of shape {shape} and dtype {described['dtype']} needs {needed} bytes, "
                f"but its data_offsets span {show(end - start)}"
            )
        spans.append((start, end, name))
        entries[name] = stored(source, base + start, shape, dtype)
    reached = 0
    for start, end, name in sorted(spans):
        if start != reached:
            how = "overlaps the one before it" if start < reached else "leaves a gap before it"
            raise WeightFileError(f"tensor {show(name)} {how}: it starts at {show(start)}, not {reached}")
        reached = end
    if base + reached != source.size:
        raise WeightFileError(
            f"the tensors end at byte {show(base + reached)}, the file at {source.size}; it is cut short or damaged"
        )
    return entries


def _offsets(found: object, what: str) -> tuple[int, int]:
    if isinstance(found, list) and len(found) == 2 and all(type(x) is int for x in found):
        start, end = found
        if 0 <= start <= end:
            return start, end
    raise WeightFileError(f"{what} has wrong data_offsets; they are two integers, 0 <= start <= end")
