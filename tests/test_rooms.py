"""The house plan: imports point down only, and no room is most of the house."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    ("__main__",),
    ("cli",),
    ("command",),
    ("recipes",),
    ("report",),
    ("selection",),
    ("train",),
    ("alignments", "finetuning", "learners", "source_free", "test_time"),
    ("methods", "peft", "tasks"),
    ("pretrained",),
    ("backbones",),
    ("transform",),
    ("nn",),
    ("networks", "heads", "objective"),
    ("data",),
    ("preprocess",),
    ("weights",),
    ("metrics", "losses", "optim"),
    ("model",),
    ("reads",),
    ("_tracing", "allocator", "checked", "datasets", "extras", "ops", "params", "paths", "replace", "rng"),
    ("typing",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def _files():
    for path in sorted((ROOT / "jtl").rglob("*.py")):
        yield path, path.relative_to(ROOT).with_suffix("").parts


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jtl":
            yield from ([f"jtl.{a.name}" for a in node.names] if node.module == "jtl" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("jtl."))


def test_imports_point_down_only():
    wrong = []
    for path, parts in _files():
        if parts[1:] in ((), ("__init__",)):
            continue
        for name in _imports(path):
            theirs = name.split(".")[1]
            if theirs != parts[1] and LEVEL[theirs] <= LEVEL[parts[1]]:
                wrong.append(f"{'/'.join(parts)} imports {name}")
    assert not wrong


def test_no_room_holds_a_third_of_the_code_and_no_file_is_long():
    lines = {parts: len(path.read_text().splitlines()) for path, parts in _files()}
    rooms = Counter()
    for parts, count in lines.items():
        rooms[parts[1]] += count
    assert max(rooms.values()) <= 0.30 * sum(rooms.values()), rooms.most_common(3)
    assert max(lines.values()) <= 400
    assert sorted(lines.values())[len(lines) // 2] <= 150
