"""Inert stand-ins for objects next to the weights in a PyTorch file: nothing is imported or called."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Inert:
    """A class or function that a pickle names, or an object that it makes: only the name is kept.

    Args:
      name: its name, with the module.
    """

    name: str


_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_BUILTINS = ("set", "frozenset", "slice", "range", "complex", "bytearray", "list", "dict", "tuple", "int", "float")
_BUILTINS = (*_BUILTINS, "str", "bytes", "bool", "object")
_NUMBERS = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32")
_NUMBERS = (*_NUMBERS, "Float64", "Complex64", "Complex128", "Str", "Bytes", "Object")
_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("argparse",): ("Namespace",),
    ("types",): ("SimpleNamespace",),
    ("pathlib", "pathlib._local"): _PATHS,
    ("numpy",): ("dtype", "ndarray"),
    ("numpy.core.multiarray", "numpy._core.multiarray"): ("scalar", "_reconstruct"),
    ("numpy.core.numeric", "numpy._core.numeric"): ("_frombuffer",),
    ("numpy.dtypes",): tuple(f"{kind}DType" for kind in _NUMBERS),
    ("_codecs",): ("encode",),  # used to encode bytes
    ("builtins", "__builtin__"): _BUILTINS,
    ("collections",): ("defaultdict", "Counter", "deque"),
    ("datetime",): ("datetime", "date", "time", "timedelta", "timezone"),
    ("decimal",): ("Decimal",),
    ("uuid",): ("UUID",),
    ("copyreg", "copy_reg"): ("_reconstructor",),
    ("pytorch_lightning.utilities.parsing", "lightning.pytorch.utilities.parsing"): ("AttributeDict",),
    ("lightning_fabric.utilities.data", "lightning.fabric.utilities.data"): ("AttributeDict",),
}
INERT = {(module, name): Inert(f"{module}.{name}") for at, names in _NAMES.items() for module in at for name in names}
"""The names that training scripts leave in their checkpoints: settings, paths, NumPy's numbers, dates."""
