"""A config's entries for the rotary embedding, under the names of transformers 4 and 5."""

from collections.abc import Mapping
from math import log
from typing import Annotated, Any, Literal

from jtl.backbones.config import Config, Range
from jtl.nn.rotary import Dynamic, Linear, Llama3, Scaling, Yarn
from jtl.weights.formats.errors import show

_Factor = Annotated[float, Range(1.0, 1e6)]
_Turns = Annotated[float, Range(1e-6, 1e6)]
_Places = Annotated[int, Range(1, 1 << 24)]


class RopeScaling(Config, aliases={"type": "rope_type"}):
    """How the rotary wavelengths are scaled for texts longer than those seen in pretraining."""

    rope_type: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: _Factor
    original_max_position_embeddings: _Places | None = None
    low_freq_factor: _Turns | None = None
    high_freq_factor: _Turns | None = None
    attention_factor: Annotated[float, Range(1e-6, 1e6)] | None = None
    beta_fast: _Turns | None = None
    beta_slow: _Turns | None = None
    mscale: Annotated[float, Range(0.0, 1e6)] | None = None
    mscale_all_dim: Annotated[float, Range(0.0, 1e6)] | None = None
    truncate: bool | None = None

    def check(self, head: int) -> None:
        """Refuses entries that cannot be computed.

        Args:
          head: width of a head.

        Raises:
          ValueError: naming the entry.
        """
        if self.rope_type == "llama3":
            low, high = self.low_freq_factor, self.high_freq_factor
            if low is None or high is None or low >= high:
                raise ValueError(
                    f"rope_scaling with low_freq_factor={low}, high_freq_factor={high}: give two numbers, the "
                    "smaller one first"
                )
        if self.rope_type == "dynamic" and head <= 2:
            raise ValueError(f"rope_type='dynamic' with heads of width {head}: give at least 4")

    def of(self, longest: int) -> Scaling:
        """The scaling that the network takes.

        Args:
          longest: `max_position_embeddings`.
        """
        original = self.original_max_position_embeddings or longest
        if self.rope_type == "linear":
            return Linear(self.factor)
        if self.rope_type == "dynamic":
            return Dynamic(self.factor, longest)
        if self.rope_type == "llama3":
            return Llama3(self.factor, self.low_freq_factor or 0, self.high_freq_factor or 0, original)
        truncate = self.truncate is not False
        return Yarn(self.factor, original, self._scale(), self.beta_fast or 32, self.beta_slow or 1, truncate)

    def _scale(self) -> float:
        """The factor on queries and keys under "yarn"."""

        def by(mscale: float) -> float:
            return 0.1 * mscale * log(self.factor) + 1

        if self.attention_factor is not None:
            return self.attention_factor
        return by(self.mscale) / by(self.mscale_all_dim) if self.mscale and self.mscale_all_dim else by(1)


def old_words(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `given` with `rope_theta` and `rope_scaling` in place of transformers 5's `rope_parameters`.

    Every version of transformers reads these two, and version 4 reads nothing else.

    Raises:
      ValueError: for an entry that is not a mapping, or if both forms are present and differ.
    """
    made, found = dict(given), []
    for name in ("rope_parameters", "rope_scaling"):
        value = made.pop(name, None)
        if not isinstance(value, (Mapping, type(None))):
            raise ValueError(f"{name}={show(str(value))}: give names and values, or null")
        scaling = dict(value or {})
        found += [(word, scaling.pop(word, None)) for word in ("rope_theta", "partial_rotary_factor")]
        scaled = scaling.get("rope_type", scaling.get("type", "default")) != "default"
        found.append(("rope_scaling", scaling if scaled else None))
    for word, value in found:
        if value is not None and made.get(word) not in (value, None):
            raise ValueError(f"{word}={show(str(made[word]))} and {show(str(value))} by another word: give it once")
        if value is not None:
            made[word] = value
    return made
