"""Broken and malicious weight files: whole ones, written by hand, then damaged; no library of the formats is used."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator

MAGIC = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."


def text(value: str) -> bytes:
    """The pickle instruction for a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The pickle instruction for an integer."""
    data = value.to_bytes(max(1, (value.bit_length() + 8) // 8), "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(name: str) -> bytes:
    """The pickle instruction for a global."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def tensor(key: str, offset: int, shape: list[int], strides: list[int], count: int, tail: bytes = b"") -> bytes:
    """The pickle instructions for a float tensor; `tail` is b"N" in the old format."""
    storage = b"((" + text("storage") + named("torch.FloatStorage") + text(key) + text("cpu") + number(count) + tail
    sizes = b"".join(b"(" + b"".join(map(number, x)) + b"t" for x in (shape, strides))
    call = named("torch._utils._rebuild_tensor_v2") + storage + b"tQ" + number(offset) + sizes
    return call + b"\x89" + named("collections.OrderedDict") + b")RtR"


def torch_zip(program: bytes, storages: dict[str, bytes]) -> bytes:
    """The new format around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()


def torch_legacy(program: bytes, storages: dict[str, bytes]) -> bytes:
    """The old format around a pickle."""
    system = b"\x80\x02}(" + text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + b"".join(text(key) for key in storages) + b"e."
    data = b"".join(struct.pack("<q", len(x) // 4) + x for x in storages.values())
    return MAGIC + b"\x80\x02M\xe9\x03." + system + program + keys + data


def safetensors(header: object, data: bytes) -> bytes:
    """A header and numbers."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data


def npy(descr: str, shape: str, data: bytes) -> bytes:
    """One array of an .npz."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def state_dict(tail: bytes = b"", **tensors: tuple) -> bytes:
    """A pickle of named tensors."""
    items = b"".join(text(k) + tensor(*v, tail) for k, v in tensors.items())
    return b"\x80\x02}(" + items + b"u."


FOUR = bytes(range(16))
WHOLE: list[tuple[str, bytes]] = [
    ("zip", torch_zip(state_dict(w=("0", 0, [2, 2], [2, 1], 4), b=("0", 1, [3], [1], 4)), {"0": FOUR})),
    (
        "legacy",
        torch_legacy(state_dict(b"N", w=("0", 0, [2, 2], [1, 2], 4), b=("1", 0, [4], [1], 4)), {"0": FOUR, "1": FOUR}),
    ),
    (
        "safetensors",
        safetensors(
            {
                "w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                "b": {"dtype": "BF16", "shape": [8], "data_offsets": [16, 32]},
            },
            FOUR * 2,
        ),
    ),
    ("npz", npz({"w.npy": npy("'<f4'", "(2, 2)", FOUR), "b.npy": npy("'|b1'", "(16,)", FOUR)})),
    ("npz deflated", npz({"w.npy": npy("'>f4'", "(4,)", FOUR)}, zipfile.ZIP_DEFLATED)),
    (
        "index",
        json.dumps({"metadata": {}, "weight_map": {"w": "whole.safetensors", "b": "whole.safetensors"}}).encode(),
    ),
]

Mutation = Callable[[random.Random, bytes], bytes]
LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """The start of it."""
    return data[: rng.randrange(len(data))]


def flip(rng: random.Random, data: bytes) -> bytes:
    """A few bits the other way."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def lengthen(rng: random.Random, data: bytes) -> bytes:
    """An integer of 1 to 8 bytes overwritten by a telling one."""
    width = rng.choice([1, 2, 4, 8])
    at = rng.randrange(len(data))
    value = (rng.choice(LENGTHS) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return data[:at] + value + data[at + width :]


def digits(rng: random.Random, data: bytes) -> bytes:
    """A decimal digit replaced by another number, keeping the framing lengths as they were or not."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    at = rng.choice(places or [0])
    new = rng.choice([b"9", b"-", b"1e9", b"99999999999999999999", b"0", b"[", b'"', b"null", b"1.5"])
    return data[:at] + new + data[at + 1 :]


def splice(rng: random.Random, data: bytes) -> bytes:
    """A piece cut out, doubled or moved."""
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return rng.choice([data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:]])


def garbage(rng: random.Random, data: bytes) -> bytes:
    """Random bytes put in."""
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice([1, 4, 100])) + data[at + rng.choice([0, 1, 4, 100]) :]


def program(rng: random.Random, data: bytes) -> bytes:
    """A PyTorch file with a random pickle of instructions that are known and some that are not."""
    known = b"(01NKMJGXUC]})tasequrhjcRbQ.\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95"
    pieces = [
        text("w"),
        number(1),
        tensor("0", 0, [2], [1], 4),
        named("torch.Size"),
        named("builtins.eval"),
        b"}",
        b"]",
    ]
    body = b"".join(
        rng.choice(pieces) if rng.random() < 0.5 else bytes([rng.choice(known)]) for _ in range(rng.randrange(60))
    )
    return torch_zip(b"\x80\x02" + body + b".", {"0": FOUR})


MUTATIONS: tuple[Mutation, ...] = (truncate, flip, lengthen, digits, splice, garbage, program)


def mutated(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files, each with a label that tells how to make it again."""
    for i in range(count):
        rng = random.Random(f"{seed}/{i}")
        name, data = WHOLE[i % len(WHOLE)]
        mutation = MUTATIONS[(i // len(WHOLE)) % len(MUTATIONS)]
        yield f"seed {seed} case {i}: {mutation.__name__} of {name}", mutation(rng, data)
