"""Fuzz every reader of weight files: `python benchmarks/fuzz_weights.py 100000 [SEED]`.

Each case must be read, or refused by `WeightFileError` (or `FileNotFoundError` for a named file that is absent), within
a second of processor time, in bounded memory, and without any effect: an audit hook stops the run if a reader imports,
executes, starts a process, connects, or opens a file to write or outside the case's folder.
"""

import faulthandler
import importlib.util
import random
import resource
import signal
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 1.0
MEMORY = 768 << 20  # bytes beyond what the process has at the start
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.", "exec", "compile", "import")
ALLOWED = ("os.listdir", "os.scandir", "ctypes.addressof")


def _load_generator() -> Any:
    spec = importlib.util.spec_from_file_location("fuzzing", ROOT / "tests" / "weights" / "fuzzing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT))
fuzzing = _load_generator()
from jtl.weights import WeightFileError, read  # noqa: E402
from jtl.weights.torch_file import read_torch_tree  # noqa: E402


def attacks() -> Iterator[tuple[str, bytes]]:
    """Files made to hurt; none may be read."""
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


def guard(event: str, args: tuple) -> None:
    """End the process at once if a reader does anything but read its case."""
    if not watching:
        return
    bad = event.startswith(FORBIDDEN) and not event.startswith(ALLOWED)
    if event == "import":
        bad = args[0] not in sys.modules and args[0].split(".")[0] not in ("encodings", "numpy")
    if event == "open":
        path, mode = str(args[0]), args[1]
        bad = not path.startswith(watching) or (mode is not None and set(str(mode)) & set("wax+"))
    if bad:
        sys.stderr.write(f"FORBIDDEN {event} {args!r} in {current}\n")
        faulthandler.dump_traceback()
        signal.raise_signal(signal.SIGKILL)


def outcome(path: Path) -> str:
    """`read` or `refused`; anything else is raised."""
    try:
        for value in read(path).values():
            value.sum() if value.dtype.kind in "biuf" else value.tobytes()
        if path.read_bytes()[:2] == b"\x80\x02" or b"data.pkl" in path.read_bytes():
            read_torch_tree(path)
    except (WeightFileError, FileNotFoundError) as error:
        if len(str(error)) > 5000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return "refused"
    return "read"


def late(*_: object) -> None:
    """The processor time of a case is over."""
    raise TimeoutError(f"more than {SECONDS} s of processor time in {current}")


watching = ""
current = ""


def main(count: int, seed: int) -> None:
    """Run `count` damaged files and all attacks."""
    global watching, current
    signal.signal(signal.SIGPROF, late)
    hostile = list(attacks())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    tally: Counter[str] = Counter()
    sys.addaudithook(guard)
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case"
        for name, data in fuzzing.WHOLE:
            (Path(folder) / "whole.safetensors").write_bytes(fuzzing.WHOLE[2][1])
            case.write_bytes(data)
            if outcome(case) != "read":
                raise AssertionError(f"the undamaged {name} was refused")
        cases = [(label, data, True) for label, data in hostile]
        damaged = ((label, data, False) for label, data in fuzzing.mutated(seed, count))
        for label, data, must_refuse in (x for part in (cases, damaged) for x in part):
            case.write_bytes(data)
            current, watching = label, folder
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                result = outcome(case)
            except BaseException as error:
                raise AssertionError(f"{label}: {type(error).__name__}: {str(error)[:500]}") from error
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                watching = ""
            if must_refuse and result != "refused":
                raise AssertionError(f"{label}: was read")
            tally[result] += 1
    print(f"{sum(tally.values())} cases: {tally['refused']} refused, {tally['read']} read")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    main(*numbers, *(10_000, random.randrange(1 << 32))[len(numbers) :])
