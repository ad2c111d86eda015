"""Weights in several files with an index, the format of large models on the Hugging Face Hub."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.lazy_tensors import Entry, Tensors
from jtl.weights.formats.safetensors import parse_json
from jtl.weights.formats.source import ByteSource

MAX_INDEX = 16 << 20  # bytes; the 91,000 tensors of the largest published network take 9 MB
MAX_FILES = 4096  # each is searched for; the largest published networks have a few hundred
MAX_NAME = 255  # bytes of a file's name, which no usual file system exceeds


def read_index(path: Path, read_shard: Callable[[Path], Tensors]) -> Tensors:
    """All tensors named by an index `{"weight_map": {tensor: file}}` whose files are next to it.

    Args:
      path: the `*.index.json` file.
      read_shard: reads one of the files.

    Raises:
      WeightFileError: the index is malformed, names a file outside its folder, or disagrees with a file.
      FileNotFoundError: a named file does not exist.
    """
    weight_map = _weight_map(path)
    with in_file(path):
        expected = _by_file(weight_map)
        absent = [shard for shard in expected if not (path.parent / shard).exists()]
        if absent:
            raise FileNotFoundError(f"{path}: these files of the index are absent: {', '.join(map(show, absent))}")
        entries: dict[str, Entry] = {}
        for shard, names in expected.items():
            tensors = read_shard(path.parent / shard)
            _same_names(set(names), set(tensors), shard)
            entries.update((name, tensors.entry(name)) for name in names)
        return Tensors(path, {name: entries[name] for name in weight_map})


def names_of(path: Path) -> list[str]:
    """The files that an index names.

    Raises:
      WeightFileError: the index is malformed, or names a file outside its folder.
    """
    weight_map = _weight_map(path)
    with in_file(path):
        return list(_by_file(weight_map))


def _by_file(weight_map: Mapping[str, object]) -> dict[str, list[str]]:
    """The tensors that each file should hold."""
    held: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        held.setdefault(_plain_name(shard, name), []).append(name)
    if len(held) > MAX_FILES:
        raise WeightFileError(f"the index names {len(held)} files; at most {MAX_FILES} are read")
    return held


def _weight_map(path: Path) -> dict[str, object]:
    source = ByteSource(path)
    with in_file(path):
        if source.size > MAX_INDEX:
            raise WeightFileError(f"the index has {source.size} bytes; at most {MAX_INDEX} are read")
        index = parse_json(source.bytes(0, source.size))
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightFileError('is no index of weights; it must hold {"weight_map": {tensor name: file name}}')
        return weight_map


def _plain_name(shard: object, name: str) -> str:
    wrong = not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & set("/\\:\0")
    if wrong or not isinstance(shard, str) or len(shard.encode(errors="replace")) > MAX_NAME:
        raise WeightFileError(
            f"tensor {show(name)} is said to lie in {show(shard)}; it must be the name of a file beside the index"
        )
    return shard


def _same_names(indexed: set[str], held: set[str], shard: str) -> None:
    problems = [("lacks", indexed - held), ("also holds", held - indexed)]
    said = [f"{verb} {', '.join(map(show, sorted(names)[:20]))}" for verb, names in problems if names]
    if said:
        raise WeightFileError(f"{show(shard)} {' and '.join(said)}, against the index")
