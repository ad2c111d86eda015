"""A machine for the few pickle instructions that PyTorch writes; it can build data and nothing else.

A pickle is a program for a small stack machine. Python's own machine may import and call anything. This one knows the
data instructions, looks names up in `torch_tensors.ALLOWED`, and refuses the rest by name. Its work is bounded, keys of
dicts can only be strings and small numbers (a tuple that shares its parts takes forever to hash), and nothing in it
recurses.
"""

import struct
from collections.abc import Callable, Hashable
from typing import cast

from jtl.weights.formats.errors import WeightFileError, show
from jtl.weights.formats.torch_inert import INERT, Inert
from jtl.weights.formats.torch_tensors import ALLOWED, Builder

MAX_PICKLE = 16 << 20  # bytes
MAX_WORK = 1 << 18  # instructions, plus one for each 64 bytes of the file; a tensor takes about 45
HELP = (
    "only tensors, numbers, strings, lists and dicts are read from a PyTorch file; in PyTorch, "
    "save the weights alone: torch.save(model.state_dict(), file)"
)


class Machine:
    """Runs one pickle after another in `data`.

    Args:
      data: the bytes.
      file_size: the length of the whole file in bytes, which bounds the number of instructions.
      persistent: turns a persistent id (PyTorch's reference to a storage) into a value.
    """

    def __init__(self, data: bytes, file_size: int, persistent: Callable[[object], object]):
        self.data = data
        self.at = 0
        self.persistent = persistent
        self.work_left = MAX_WORK + file_size // 64
        self._reset()

    def _reset(self) -> None:
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Returns the value of the pickle that starts at `at`; moves `at` to its end.

        Raises:
          WeightFileError: an instruction or a name that is not allowed, or a malformed pickle.
        """
        self._reset()
        data, end = self.data, len(self.data)
        while True:
            if self.at >= end:
                raise WeightFileError("its pickle has no end; it is cut short")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.pop()
            instruction = INSTRUCTIONS.get(code)
            if instruction is None:
                shown = bytes([code])
                raise WeightFileError(f"uses the pickle instruction {shown!r} at byte {self.at - 1}; {HELP}")
            self.work_left -= 1
            if self.work_left < 0:
                raise WeightFileError(f"its pickle takes more than {MAX_WORK} instructions")
            instruction(self)

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise WeightFileError(
                f"its pickle ends inside an instruction at byte {self.at}; it is cut short or damaged"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def line(self) -> str:
        """Returns the next line of text."""
        end = self.data.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            raise WeightFileError(f"its pickle has a name without an end at byte {self.at}")
        text = self.take(end - self.at)
        self.at += 1
        return text.decode("utf-8", "replace")

    def unsigned(self, count: int) -> int:
        """Returns the next `count` bytes as a number."""
        return int.from_bytes(self.take(count), "little")

    def pop(self) -> object:
        """Removes and returns the top of the stack."""
        if not self.stack:
            raise WeightFileError(f"its pickle takes from an empty stack at byte {self.at}; it is damaged")
        return self.stack.pop()

    def top(self, kind: type, verb: str) -> object:
        """Returns the top of the stack, which must be of `kind`."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise WeightFileError(f"its pickle {verb} something that is no {kind.__name__} at byte {self.at}")
        return self.stack[-1]

    def marked(self) -> list[object]:
        """Removes and returns everything above the last mark."""
        if not self.marks:
            raise WeightFileError(f"its pickle lacks a mark at byte {self.at}; it is damaged")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push_tuple(self, count: int) -> None:
        """Replace the top `count` values by their tuple."""
        if len(self.stack) < count:
            raise WeightFileError(f"its pickle takes from an empty stack at byte {self.at}; it is damaged")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def text(self, count: int) -> None:
        """Push the next `count` bytes as text."""
        try:
            self.stack.append(self.take(count).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise WeightFileError(f"its pickle has text that is no UTF-8 before byte {self.at}") from None

    def integer(self, count: int) -> None:
        """Push the next `count` bytes as a signed integer."""
        if count > 64:
            raise WeightFileError(f"its pickle holds an integer of {count} bytes; at most 64 are read")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def number(self, layout: str, count: int) -> None:
        """Push a number of a fixed layout."""
        self.stack.append(struct.unpack(layout, self.take(count))[0])

    def name(self, module: object, name: object) -> None:
        """Push the object that a name in a module stands for."""
        found = None
        if isinstance(module, str) and isinstance(name, str):
            found = ALLOWED.get((module, name), INERT.get((module, name)))
        if found is None:
            full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "of no text"
            raise WeightFileError(f"names the pickle global {show(full)}, which is refused: {HELP}")
        self.stack.append(found)

    def call(self) -> None:
        """Call the builder under the arguments on top."""
        args, builder = self.pop(), self.pop()
        if isinstance(builder, Inert) and type(args) is tuple:
            self.stack.append(builder)
            return
        if not isinstance(builder, Builder) or type(args) is not tuple:
            raise WeightFileError(f"its pickle calls {show(builder)} at byte {self.at}; {HELP}")
        try:
            self.stack.append(builder.build(args))
        except WeightFileError:
            raise
        except ValueError:  # from unpacking the arguments
            raise WeightFileError(f"calls {builder.name} with {len(args)} arguments at byte {self.at}") from None

    def state(self) -> None:
        """Drop the attributes set on a dict (PyTorch keeps module versions there) or on an inert value."""
        self.pop()
        if not self.inert():
            self.top(dict, "sets attributes of")

    def inert(self) -> bool:
        """Whether the top of the stack is an inert value, which keeps no content."""
        return bool(self.stack) and isinstance(self.stack[-1], Inert)

    def make(self, more: int) -> None:
        """Make an object of an inert class; `more` keyword arguments are on the stack above the positional ones."""
        for _ in range(more):
            self.pop()
        args, kind = self.pop(), self.pop()
        if not isinstance(kind, Inert) or type(args) is not tuple:
            raise WeightFileError(f"its pickle makes an object of {show(kind)} at byte {self.at}; {HELP}")
        self.stack.append(kind)

    def add(self, items: list[object]) -> None:
        """Add values to the set on top, whose content is not kept."""
        if not self.inert():
            raise WeightFileError(f"its pickle adds {len(items)} values to something that is no set; it is damaged")

    def set_items(self, items: list[object]) -> None:
        """Add keys and values to the dict on top."""
        if self.inert():
            return
        target = cast(dict[Hashable, object], self.top(dict, "adds items to"))
        if len(items) % 2:
            raise WeightFileError(f"its pickle has a key without a value at byte {self.at}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            small = abs(key) < 1 << 63 if isinstance(key, (int, float)) else isinstance(key, str) and len(key) <= 1024
            if not small:
                raise WeightFileError(f"its pickle has a dict key that is {show(key)}; keys are names or small numbers")
            target[cast(Hashable, key)] = value

    def set_item(self) -> None:
        """Add one key and value."""
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self, items: list[object]) -> None:
        """Add values to the list on top."""
        if self.inert():
            return
        cast(list[object], self.top(list, "appends to")).extend(items)

    def recall(self, index: int) -> None:
        """Push a remembered value."""
        if index not in self.memo:
            raise WeightFileError(f"its pickle recalls a value it never kept at byte {self.at}")
        self.stack.append(self.memo[index])

    def keep(self, index: int) -> None:
        """Remember the top of the stack."""
        value = self.pop()
        self.stack.append(value)
        self.memo[index] = value

    def refer(self) -> None:
        """Replace a persistent id by the value it stands for."""
        self.stack.append(self.persistent(self.pop()))


def _version(machine: Machine) -> None:
    version = machine.unsigned(1)
    if version > 5:
        raise WeightFileError(f"its pickle is of protocol {version}; 2 to 5 are read")


INSTRUCTIONS: dict[int, Callable[[Machine], object]] = {
    0x80: _version,
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): lambda m: m.pop(),
    ord("1"): lambda m: m.marked(),
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.unsigned(1)),
    ord("M"): lambda m: m.stack.append(m.unsigned(2)),
    ord("J"): lambda m: m.integer(4),
    0x8A: lambda m: m.integer(m.unsigned(1)),
    0x8B: lambda m: m.integer(m.unsigned(4)),
    ord("G"): lambda m: m.number(">d", 8),
    ord("X"): lambda m: m.text(m.unsigned(4)),
    0x8C: lambda m: m.text(m.unsigned(1)),
    0x8D: lambda m: m.text(m.unsigned(8)),
    ord("U"): lambda m: m.text(m.unsigned(1)),  # a string of Python 2
    ord("T"): lambda m: m.text(m.unsigned(4)),
    ord("C"): lambda m: m.stack.append(m.take(m.unsigned(1))),
    ord("B"): lambda m: m.stack.append(m.take(m.unsigned(4))),
    0x8E: lambda m: m.stack.append(m.take(m.unsigned(8))),
    ord("]"): lambda m: m.stack.append([]),
    ord("}"): lambda m: m.stack.append({}),
    ord(")"): lambda m: m.stack.append(()),
    0x85: lambda m: m.push_tuple(1),
    0x86: lambda m: m.push_tuple(2),
    0x87: lambda m: m.push_tuple(3),
    ord("t"): lambda m: m.stack.append(tuple(m.marked())),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.marked()),
    ord("s"): lambda m: m.set_item(),
    ord("u"): lambda m: m.set_items(m.marked()),
    ord("q"): lambda m: m.keep(m.unsigned(1)),
    ord("r"): lambda m: m.keep(m.unsigned(4)),
    0x94: lambda m: m.keep(len(m.memo)),
    ord("h"): lambda m: m.recall(m.unsigned(1)),
    ord("j"): lambda m: m.recall(m.unsigned(4)),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: lambda m: m.name(*reversed((m.pop(), m.pop()))),
    ord("R"): lambda m: m.call(),
    ord("b"): lambda m: m.state(),
    0x81: lambda m: m.make(0),
    0x92: lambda m: m.make(1),
    0x8F: lambda m: m.stack.append(INERT["builtins", "set"]),
    0x90: lambda m: m.add(m.marked()),
    0x91: lambda m: m.stack.append((m.marked(), INERT["builtins", "frozenset"])[1]),
    ord("Q"): lambda m: m.refer(),
}
