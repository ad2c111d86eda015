"""Finds the state dict in the nested data of a PyTorch file.

Parts of the data may be shared (a list that holds one list ten times, and so on, thirty deep, would be endless if
expanded), so each object is visited once; and data may contain itself, so the depth is bounded.
"""

from collections.abc import Iterator

from jtl.weights.formats.errors import WeightFileError, show
from jtl.weights.formats.torch_tensors import TensorView

MAX_DEPTH = 64
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "weights", "net", "module")


def find_tensors(tree: object, within: str | None = None) -> dict[str, TensorView]:
    """Returns the state dict in the saved data.

    Args:
      tree: the nested data.
      within: its place, keys joined by "/"; None for the only dict of tensors, or the one with a usual name. The root
        counts as such, unless it holds fewer tensors than the first dict with a usual name.

    Returns:
      Name to tensor; entries of that dict that are not tensors (such as a version number) are left out.

    Raises:
      WeightFileError: there is none, or there are several; the message lists their places.
    """
    found = dict(_tensor_dicts(tree))
    if within is not None:
        wanted = tuple(within.split("/"))
        if wanted not in found:
            raise WeightFileError(f"holds no dict of tensors at {show(within)}; there are {_places(found)}")
        return found[wanted]
    if len(found) == 1:
        return next(iter(found.values()))
    # A score or a generator's state next to the network is a tensor too, but not a state dict.
    usual = [found[place] for place in ((), *((name,) for name in WRAPPERS)) if place in found]
    if () in found and len(usual) > 1 and len(usual[0]) < len(usual[1]):
        return usual[1]
    if usual:
        return usual[0]
    if not found:
        raise WeightFileError("holds no dict of named tensors")
    raise WeightFileError(f"holds several dicts of tensors; choose one by within=: {_places(found)}")


Place = tuple[str, ...]


def _places(found: dict[Place, dict[str, TensorView]]) -> str:
    first = list(found.items())[:20]
    return ", ".join(f"{show('/'.join(place))} ({len(views)} tensors)" for place, views in first) or "none"


def _tensor_dicts(tree: object) -> Iterator[tuple[Place, dict[str, TensorView]]]:
    """Every dict that holds tensors by name, with its place, each object once."""
    seen: set[int] = set()
    waiting: list[tuple[Place, object]] = [((), tree)]
    while waiting:
        place, node = waiting.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        if len(place) > MAX_DEPTH:
            raise WeightFileError(f"nests its dicts more than {MAX_DEPTH} deep")
        views = {k: v for k, v in node.items() if isinstance(k, str) and isinstance(v, TensorView)}
        if views:
            yield place, views
        inner = [((*place, k), v) for k, v in node.items() if isinstance(k, str) and isinstance(v, dict)]
        waiting.extend(reversed(inner))
