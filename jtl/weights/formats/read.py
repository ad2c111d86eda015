"""Weights from a path, in any format, which is recognised by the content, not the name."""

from pathlib import Path

from jtl.paths import local
from jtl.weights.formats import unsupported
from jtl.weights.formats.errors import WeightFileError, show
from jtl.weights.formats.lazy_tensors import Tensors
from jtl.weights.formats.npz import read_npz
from jtl.weights.formats.orbax import newest, read_checkpoint
from jtl.weights.formats.safetensors import read_safetensors
from jtl.weights.formats.sharded_index import read_index
from jtl.weights.formats.source import ByteSource
from jtl.weights.formats.torch import LEGACY_START, read_torch
from jtl.weights.formats.zip import Archive

NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".th", ".bin", ".ckpt")
READ = "read are safetensors (one file, or several by their index), PyTorch's .pth/.pt/.th/.bin/.ckpt, and .npz"


def read(path: str | Path, *, within: str | None = None) -> Tensors:
    """The named tensors of a weight file or folder on this machine.

    Args:
      path: a file, an `*.index.json` next to its files, a folder that holds one of `NAMES` or exactly one weight file,
        or a folder of `jtl.Checkpoints`, of which the newest is read.
      within: in a PyTorch file with several dicts of tensors, the one to read, such as "model_ema".

    Returns:
      Name to array; each is read when it is looked up. `tensors.entry(name)` has shape and dtype without reading it.

    Raises:
      FileNotFoundError: the path does not exist, or a folder holds no weights.
      WeightFileError: the file is damaged, malicious, or of another kind.

    Example:
      >>> import tempfile, numpy as np, jtl
      >>> file = tempfile.mkdtemp() + "/weights.npz"
      >>> np.savez(file, **{"layer.weight": np.ones((3, 2))})
      >>> tensors = jtl.weights.read(file)
      >>> list(tensors), tensors.entry("layer.weight").shape
      (['layer.weight'], (3, 2))
    """
    path = local(path, "path")
    if path.is_dir():
        if newest(path) is not None:
            _no_place(path, within)
            return read_checkpoint(path)
        path = _in_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {READ}, or a folder with one of them")
    source = ByteSource(path)
    start = source.bytes(0, min(source.size, 64))
    if start.lstrip().startswith(b"{") and not _is_safetensors(source, start):
        _no_place(path, within)
        return read_index(path, _read_one)
    return _read_one(path, within)


def _is_safetensors(source: ByteSource, start: bytes) -> bool:
    """Whether it can be one: its first eight bytes are a length, so they may look like the start of another format."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= source.size - 8


def _read_one(path: Path, within: str | None = None) -> Tensors:
    """The tensors of a file that is not an index: an index names weight files, never another index."""
    source = ByteSource(path)
    start = source.bytes(0, min(source.size, 64))
    if not start:
        raise WeightFileError(f"{path}: is empty")
    if start.startswith(LEGACY_START):
        return read_torch(path, within)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(source, within)
    _no_place(path, within)
    if _is_safetensors(source, start):
        return read_safetensors(path)
    what = unsupported.by_start(start)
    if what is not None:
        raise WeightFileError(f"{path}: is {what}")
    if start[8:9] == b"{":
        return read_safetensors(path)  # says what is wrong with its length
    what = unsupported.by_name(path)
    if what is not None:
        raise WeightFileError(f"{path}: is {what}; {unsupported.INSTEAD}")
    raise WeightFileError(f"{path}: starts with {start[:8]!r}, as no weight file does; {READ}")


def _read_zip(source: ByteSource, within: str | None) -> Tensors:
    try:
        members = Archive(source).members
    except WeightFileError as error:
        raise WeightFileError(f"{source.path}: {error}") from None
    if any(name.endswith("/data.pkl") for name in members):
        return read_torch(source.path, within)
    _no_place(source.path, within)
    if all(name.endswith(".npy") for name in members):
        return read_npz(source.path)
    some = ", ".join(show(name) for name in list(members)[:5])
    raise WeightFileError(f"{source.path}: is a zip of {some}, neither a PyTorch file nor an .npz")


def _no_place(path: Path, within: str | None) -> None:
    if within is not None:
        raise WeightFileError(f"{path}: within={show(within)} only serves PyTorch files, which may hold several dicts")


def _in_folder(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).exists():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    held = ", ".join(p.name for p in (found or sorted(folder.iterdir()))[:20]) or "nothing"
    many = "several weight files; name one of them" if found else "no weights"
    others = [f"{p.name} is {what}" for p in sorted(folder.iterdir()) if (what := unsupported.by_name(p)) and not found]
    instead = f"; {', '.join(others[:8])}, which is not read: {unsupported.INSTEAD}" if others else ""
    raise FileNotFoundError(
        f"{folder} holds {many}: {held}; looked for {', '.join(NAMES)}, or one {', '.join(SUFFIXES)}{instead}"
    )
