"""Configs of networks: frozen dataclasses whose annotations say which values each entry may have."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from types import NoneType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from jtl.nn.sizes import Size
from jtl.weights.formats.errors import show


class Range(NamedTuple):
    """The smallest and largest value of a number, or length of a list."""

    least: float
    most: float


Whole = Annotated[int, Range(1, 1 << 16)]
Depth = Annotated[int, Range(1, 256)]
Vocabulary = Annotated[int, Range(1, 1 << 24)]
Rate = Annotated[float, Range(0, 1.0)]
DropRate = Annotated[float, Range(0, 0.99)]
Ratio = Annotated[float, Range(0, 64)]
Factor = Annotated[float, Range(0, 16)]
Zero = Annotated[float, Range(0.0, 0.0)]
Widths = Annotated[tuple[Whole, ...], Range(1, 8)]
Depths = Annotated[tuple[Depth, ...], Range(1, 8)]
_UNFIT = object()
_Own = TypeVar("_Own", bound="Config")


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True)
class Config:
    r"""The settings of a network; a family's config is a subclass whose fields are the entries of its `config.json`.

    A field is annotated with `int`, `float`, `bool`, `str`, a `Literal`, a tuple of one of these, another config, or
    one of these or None. `Annotated[..., Range(least, most)]` bounds a number, or the length of a tuple. However a
    config is made, every entry is checked first, so that no file can ask for a network of arbitrary size.

    Args:
      extra: other entries of a `config.json`, such as the names of classes; `to_dict` returns them.

    Raises:
      ValueError: for an impossible value, naming the entry, its value and what would be right.

    Example:
      >>> class MlpConfig(Config, model_type="mlp"):
      ...     hidden_sizes: Widths = (64, 64)
      ...     dropout: Rate = 0.0
      >>> config = MlpConfig.from_dict({"model_type": "mlp", "hidden_sizes": [8], "id2label": {"0": "ant"}})
      >>> config.hidden_sizes, config.replace(dropout=0.5).dropout
      ((8,), 0.5)
      >>> config.to_dict()
      {'model_type': 'mlp', 'hidden_sizes': [8], 'dropout': 0.0, 'id2label': {'0': 'ant'}}
      >>> MlpConfig(dropout=2.0)
      Traceback (most recent call last):
      ValueError: mlp with dropout=2.0: give a number from 0 to 1.0
    """

    model_type: ClassVar[str] = ""
    """transformers' name of the family, or jtl's where transformers has none; "" for a part of a config."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """transformers' common name of an entry -> the family's own."""

    extra: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def __init_subclass__(cls, model_type: str = "", aliases: Mapping[str, str] | None = None) -> None:
        """Makes the subclass a frozen dataclass."""
        cls.model_type, cls.aliases = model_type or cls.model_type, aliases or cls.aliases
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            object.__setattr__(self, name, read(kind, name, getattr(self, name), of=self.model_type))
        self._check()

    def _check(self) -> None:
        """Refuses entries that contradict each other; a family overrides it.

        Raises:
          ValueError: naming the entries and their values.
        """

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        """Adds to `given` the entries whose default depends on others or on `naming`; a family overrides it."""
        del naming
        return given

    @classmethod
    def from_dict(cls: type[_Own], given: Mapping[str, Any], naming: str = "") -> _Own:
        """The config made of a `config.json`, with defaults for missing entries.

        Args:
          given: entries by name; those that are not fields go to `extra`.
          naming: the naming scheme of the weights, if it is known: libraries differ in their defaults.

        Raises:
          ValueError: for an impossible value, or two different values for one entry under two names.
        """
        given = dict(cls._fill(cls._renamed(given), naming))
        kind = given.pop("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(f"model_type={_shown(kind)}: {cls.__name__} is of {cls.model_type!r}")
        required = [one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING]
        known = dict.fromkeys(required) | {name: given.pop(name) for name in _kinds(cls) if name in given}
        return cls(**cls._read(known), extra=given)

    def to_dict(self) -> dict[str, Any]:
        """The entries as JSON values, which `from_dict` reads again; entries left at a default of None are omitted."""
        made: dict[str, Any] = {"model_type": self.model_type} if self.model_type else {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "extra" and (value is not None or one.default is not None):
                made[one.name] = _plain(value)
        return {**made, **self.extra}

    def replace(self: _Own, **changes: Any) -> _Own:
        """A copy with other values, which are checked in the same way.

        Raises:
          ValueError: for an impossible value.
          TypeError: for a name that is not a field.
        """
        return replace(self, **self._read(changes))

    @classmethod
    def _read(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Converts entries to the types of their fields: a type checker of `__init__` would refuse JSON's lists."""
        kinds = _kinds(cls)
        return {k: read(kinds[k], k, v, of=cls.model_type) if k in kinds else v for k, v in given.items()}

    def _as_many(self, *names: str) -> None:
        counts = [len(getattr(self, name)) for name in names]
        if len(set(counts)) > 1:
            raise ValueError(f"{', '.join(names)} are of {counts} stages: give as many of each")

    @classmethod
    def _renamed(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        made = dict(given)
        for alias, own in cls.aliases.items():
            if alias in made:
                value = made.pop(alias)
                if made.setdefault(own, value) != value:
                    both = f"{own}={_shown(made[own])} and {alias}={_shown(value)}"
                    raise ValueError(f"{both} are the same measure of a {cls.model_type}: give it once")
        return made


class TransformerConfig(Config):
    """The entries that most transformers have under the same names."""

    hidden_size: Whole = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Whole = 12
    intermediate_size: Whole = 3072

    @property
    def size(self) -> Size:
        """Width, depth, heads and hidden width."""
        return Size(self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.intermediate_size)


def read(kind: Any, name: str, value: Any, *, of: str = "") -> Any:
    """Returns `value` if the annotation `kind` allows it; a list becomes a tuple.

    Args:
      kind: an annotation, as in `Config`.
      name: name of the entry, for the message.
      value: the value, from a file.
      of: the `model_type`, for the message.

    Raises:
      ValueError: naming the entry, its value and what would be right.
    """
    found = _read(kind, value)
    if found is not _UNFIT:
        return found
    entry = f"{of} with {name}={_shown(value)}" if of else f"{name}={_shown(value)}"
    plain, (least, most), _ = _parts(kind)
    only = get_args(plain)[:1] if get_origin(plain) is Literal and len(get_args(plain)) == 1 else ()
    only = (least,) if least == most else only
    raise ValueError(f"{entry} is not read, only with {only[0]!r}" if only else f"{entry}: give {_right(kind)}")


@cache
def _kinds(config: type[Config]) -> dict[str, Any]:
    hints = get_type_hints(config, include_extras=True)
    return {one.name: hints[one.name] for one in fields(config) if one.name != "extra"}


@cache
def _parts(kind: Any) -> tuple[Any, Range, bool]:
    """The type without its limits, its limits, and whether it may be None."""
    if get_origin(kind) is Annotated:
        limits = [one for one in kind.__metadata__ if isinstance(one, Range)]
        return kind.__origin__, limits[-1], False  # the outermost comes last
    choices = [one for one in get_args(kind) if one is not NoneType]
    if len(choices) < len(get_args(kind)):
        return *_parts(choices[0])[:2], True
    return kind, Range(float("-inf"), float("inf")), False


def _read(kind: Any, value: Any) -> Any:
    plain, (least, most), nullable = _parts(kind)
    if value is None and nullable:
        return None
    origin, inner = get_origin(plain), get_args(plain)
    if origin is Literal:
        return next((one for one in inner if type(one) is type(value) and one == value), _UNFIT)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            return _UNFIT
        found = tuple(_read(inner[0], one) for one in value)
        return _UNFIT if any(one is _UNFIT for one in found) else found
    if issubclass(plain, Config) and isinstance(value, Mapping):
        return plain.from_dict(value)
    if issubclass(plain, (bool, str, Config)):
        return value if isinstance(value, plain) else _UNFIT
    number: Any = value if type(value) in (int, plain) else float("nan")
    return value if least <= number <= most else _UNFIT


def _right(kind: Any) -> str:
    """Says in words what is allowed."""
    plain, (least, most), nullable = _parts(kind)
    origin, inner = get_origin(plain), get_args(plain)
    words = {int: f"a whole number from {least} to {most}", float: f"a number from {least} to {most}"}
    words |= {bool: "true or false", str: "a text"}
    if origin is Literal:
        found = f"one of {list(inner)}"
    elif origin is tuple:
        found = f"a list of {least} to {most}, each {_right(inner[0])}"
    else:
        found = words.get(plain, "names and values")
    return f"{found}, or null" if nullable else found


def _shown(value: Any) -> str:
    return str(value)[:120] if isinstance(value, (list, tuple)) else show(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
