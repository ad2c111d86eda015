"""Fuzz every reader of weight files, and `jtl.load`: `python benchmarks/fuzz_weights.py 100000 [SEED]`.

Each file must be read, or refused by a `WeightFileError` (or `FileNotFoundError` for a named file that is absent); each
folder must be loaded, or refused by a ValueError or FileNotFoundError. benchmarks/guarded.py enforces the limits: a
second of processor time (two for a folder, whose config may become that of ResNet-50, which is traced before its
tensors are missed), bounded memory, and no side effects.
"""

import random
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "pretrained")]

import fuzzing

from benchmarks import fuzz_folders, guarded
from jtl.weights import WeightFileError, read


def attacks() -> Iterator[tuple[str, bytes]]:
    """Malicious files; none may be read."""
    text, named, tensor = fuzzing.text, fuzzing.named, fuzzing.tensor
    start = b"\x80\x02"
    programs = {
        "os.system": named("os.system") + b"(" + text("touch HURT") + b"tR.",
        "posix.system by the stack": b"\x80\x04" + text("posix") + text("system") + b"\x93(" + text("true") + b"tR.",
        "eval": named("builtins.eval") + b"(" + text("exit()") + b"tR.",
        "instance": b"(iposix\nsystem\n.",
        "object": b"(" + named("torch.Size") + b"o.",
        "new object": named("collections.OrderedDict") + b")\x81.",
        "extension": b"\x82\x01.",
        "torch.load again": named("torch.load") + b"(" + text("x") + b"tR.",
        "allowed module, other name": named("torch._utils.import_module") + b")R.",
        "dots": named("torch._utils._rebuild_tensor_v2.__globals__") + b".",
        "deep lists": b"]" * 200_000 + b"a" * 199_999 + b".",
        "deep tuples": b")" + b"\x85" * 500_000 + b".",
        "deep dicts": b"}" + (text("a") + b"}") * 100_000 + b"s" * 100_000 + b".",
        "doubling tuples as a key": b"}" + b")" + b"0)q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00Ns.",
        "doubling lists": b"]q\x000" + b"](h\x00h\x00eq\x000" * 2000 + b"h\x00.",
        "list in itself": b"]q\x00h\x00a.",
        "many instructions": b"N0" * 4_000_000 + b".",
        "many marks": b"(" * 3_000_000 + b".",
        "long integer": b"\x8b" + struct.pack("<I", 1 << 20) + b"\xff" * (1 << 20) + b".",
        "long text": b"X" + struct.pack("<I", 0xFFFFFFFF) + b"a.",
        "huge text": b"\x8d" + struct.pack("<Q", (1 << 64) - 1) + b"a.",
        "endless name": b"c" + b"a" * 1_000_000 + b".",
    }
    tensors = {
        "offset outside": ("0", 3, [2], [1], 4),
        "huge offset": ("0", 1 << 62, [2], [1], 4),
        "negative offset": ("0", -1, [2], [1], 4),
        "huge stride": ("0", 0, [2, 2], [1 << 55, 1], 4),
        "stride beyond": ("0", 0, [2], [1 << 70], 4),
        "huge shape": ("0", 0, [1 << 40, 1 << 40], [0, 0], 4),
        "repeated": ("0", 0, [1 << 40], [0], 4),
        "negative size": ("0", 0, [-4], [1], 4),
        "many axes": ("0", 0, [1] * 100_000, [1] * 100_000, 4),
        "huge count": ("0", 0, [2], [1], 1 << 60),
        "path as a key": ("../../etc/passwd", 0, [2], [1], 4),
    }
    programs.update({k: b"}" + text("w") + tensor(*v) + b"s." for k, v in tensors.items()})
    for name, body in programs.items():
        yield f"zip, {name}", fuzzing.torch_zip(start + body, {"0": fuzzing.FOUR})
        old = body.replace(b"tQ", b"NtQ") if name in tensors else body
        yield f"legacy, {name}", fuzzing.torch_legacy(start + old, {"0": fuzzing.FOUR})
    yield "bare pickle", start + programs["os.system"]
    for depth in (1000, 100_000, 2_000_000):
        yield f"{depth} deep JSON", fuzzing.safetensors(b'{"a":' * depth, b"")
        yield f"{depth} deep lists in JSON", fuzzing.safetensors(b'{"a":' + b"[" * depth, b"")
        yield f"{depth} deep index", b'{"weight_map":' + b"[" * depth
    yield "huge header", struct.pack("<Q", 1 << 60) + b"{}"
    yield "long header", fuzzing.safetensors(b'{"a":"' + b"x" * (17 << 20), b"")
    yield "long number", fuzzing.safetensors(b'{"a":' + b"9" * 1_000_000 + b"}", b"")
    for shard in ("../whole.safetensors", "/etc/passwd", "a/b", "..", "", "\\\\host\\x", "C:x", "a\0b"):
        yield f"index to {shard!r}", fuzzing.json.dumps({"weight_map": {"w": shard}}).encode()
    yield "index of itself", b'{"weight_map": {"w": "case"}}'
    for name, descr, shape in [
        ("objects", "'|O'", "(1,)"),
        ("fields", "[('a', '<f4')]", "(1,)"),
        ("code", "__import__('os').system('true')", "(1,)"),
        ("huge", "'<f4'", "(99999999999, 99999999999)"),
        ("nested", "'<f4'", "(" * 3000),
    ]:
        yield f"npz, {name}", fuzzing.npz({"w.npy": fuzzing.npy(descr, shape, b"\0" * 4)})
    bomb = fuzzing.npy("'|u1'", f"({200 << 20},)", bytes(200 << 20))
    yield "npz, bomb", fuzzing.npz({"w.npy": bomb}, zipfile.ZIP_DEFLATED)


def opened(path: Path) -> None:
    """Reads everything in a file."""
    for value in read(path).values():
        value.sum() if value.dtype.kind in "biuf" else value.tobytes()


Case = tuple[str, Path, Callable[[], object], tuple[type[Exception], ...], float]
"""A label, the folder that may be read, the reader, the exceptions that mean a refusal, and the limit in seconds."""


def files(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Yields single files; each is written when it is requested."""
    case = folder / "case"
    (folder / "whole.safetensors").write_bytes(fuzzing.WHOLE[2][1])
    for label, data in chain(
        ((f"whole {name}", data) for name, data in fuzzing.WHOLE),
        ((f"attack {name}", data) for name, data in attacks()),
        fuzzing.mutated(seed, count),
    ):
        case.write_bytes(data)
        yield label, folder, partial(opened, case), (WeightFileError, FileNotFoundError), 1.0


def checkpoints(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Yields whole folders; their networks must fit too, so any ValueError is a refusal."""
    for label, held, reader in fuzz_folders.cases(seed, count):
        fuzz_folders.write(folder, held)
        yield label, folder, partial(reader, folder), (ValueError, FileNotFoundError), 2.0


def main(count: int, seed: int) -> None:
    """Run `count` damaged files and folders, a quarter of them folders, and all attacks."""
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for label, _, run, *_ in chain(files(folder, 0, seed), checkpoints(folder / "checkpoint", 0, seed)):
            if label.startswith("whole"):
                run()  # runs the imports, and starts jax's threads
        guarded.limit()
        held = files(folder, count - count // 4, seed), checkpoints(folder / "checkpoint", count // 4, seed)
        for case in chain(*held):
            label, result = case[0], guarded.outcome(*case)
            if label.startswith("attack") and result != "refused":
                raise AssertionError(f"{label}: was read")
            if label.startswith("whole") and result != "read":
                raise AssertionError(f"{label}: was refused")
            tally[result] += 1
    print(f"{sum(tally.values())} cases: {tally['refused']} refused, {tally['read']} read")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    main(*numbers, *(10_000, random.randrange(1 << 32))[len(numbers) :])
