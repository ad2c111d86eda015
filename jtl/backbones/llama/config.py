"""Llama, Mistral, Qwen2 and Qwen3."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from jtl import heads
from jtl.backbones.config import Depth, Range, Rate, TransformerConfig, Vocabulary, Whole
from jtl.backbones.embedded import EmbeddingConfig, embedded, nameable
from jtl.backbones.family import PLAIN, Family, by_preset, sentence
from jtl.backbones.llama import names as maps
from jtl.backbones.llama.network import LlamaParts, llama
from jtl.backbones.llama.presets import LLAMA, MISTRAL, QWEN2, QWEN3
from jtl.backbones.llama.rope import RopeScaling, old_words
from jtl.model import Model
from jtl.nn.rotary import Rotary
from jtl.weights.mapping.rules import Rule

_ATTENTION = frozenset({"query", "key", "value", "out"})
_MLP = frozenset({"gate", "up", "down"})
_FULL = "full_attention"
_WINDOW = 4096
_Places = Annotated[int, Range(1, 1 << 24)]
_One = Annotated[float, Range(1.0, 1.0)]


class DecoderConfig(TransformerConfig):
    """The entries that the four share; jtl's own `with_lm_head` says whether the layer of the logits is read."""

    vocab_size: Vocabulary = 32000
    hidden_size: Whole = 4096
    intermediate_size: Annotated[int, Range(1, 1 << 18)] = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Whole = 32
    num_key_value_heads: Whole | None = None
    head_dim: Whole | None = None
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: _Places = 2048
    rms_norm_eps: Rate = 1e-6
    rope_theta: Annotated[float, Range(1.1, 1e12)] = 10000.0
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: _One | None = None
    original_max_position_embeddings: Literal[None] = None
    attention_dropout: Rate = 0.0
    is_causal: bool = True
    tie_word_embeddings: bool = False
    with_lm_head: bool = False
    embedding: EmbeddingConfig | None = None
    head_norm: ClassVar[bool] = False
    """Whether each head's queries and keys are normalised."""

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        # The same config is written for networks with and without the layer of the logits; the names in the file tell
        # them apart.
        known = {PLAIN: True, "transformers": False}
        return old_words(given) | ({"with_lm_head": known[naming]} if naming in known else {})

    def _check(self) -> None:
        if self.with_lm_head and self.tie_word_embeddings:
            raise ValueError("with_lm_head=True and tie_word_embeddings=True: give one of them, both make the logits")
        if self.rope_scaling is not None:
            self.rope_scaling.check(self.head)

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def biased(self) -> frozenset[str]:
        """The layers that have biases, by the names of their paths."""
        return frozenset()

    @property
    def logits(self) -> Literal["lm_head", "words"] | None:
        """The layer that computes the next word's logits, or None."""
        if self.tie_word_embeddings:
            return "words"
        return "lm_head" if self.with_lm_head else None


class LlamaConfig(DecoderConfig, model_type="llama"):
    """The config of a Llama."""

    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def biased(self) -> frozenset[str]:
        """All four layers of the attention, all three of the MLP, both, or none."""
        return (_ATTENTION if self.attention_bias else frozenset()) | (_MLP if self.mlp_bias else frozenset())


class MistralConfig(DecoderConfig, model_type="mistral"):
    """The config of a Mistral without a sliding window."""

    intermediate_size: Annotated[int, Range(1, 1 << 18)] = 14336
    num_key_value_heads: Whole | None = 8
    max_position_embeddings: _Places = 131072
    sliding_window: _Places | None = _WINDOW

    def _check(self) -> None:
        super()._check()
        if self.sliding_window is not None and self.sliding_window < self.max_position_embeddings:
            raise ValueError(
                f"mistral with sliding_window={self.sliding_window} is not read, only with null or at least "
                f"max_position_embeddings={self.max_position_embeddings}: a token sees all before it here"
            )


class _QwenConfig(DecoderConfig):
    vocab_size: Vocabulary = 151936
    intermediate_size: Annotated[int, Range(1, 1 << 18)] = 22016
    num_key_value_heads: Whole | None = 32
    max_position_embeddings: _Places = 32768
    use_sliding_window: bool = False
    sliding_window: _Places | None = None
    max_window_layers: Annotated[int, Range(0, 256)] = 28
    layer_types: Annotated[tuple[str, ...], Range(1, 256)] | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        given = super()._fill(given, naming)
        used = given.get("use_sliding_window", False)
        window = None if used is False else given.get("sliding_window", _WINDOW)
        if used is True and window is None:  # without a width there is no window
            used = False
        return {**given, "use_sliding_window": used, "sliding_window": window}

    def _check(self) -> None:
        super()._check()
        depth = self.num_hidden_layers
        if self.layer_types is not None and len(self.layer_types) != depth:
            count = len(self.layer_types)
            raise ValueError(f"layer_types of {count} layers and num_hidden_layers={depth}: give as many")
        if self.layer_types is None:
            narrow = self.use_sliding_window and self.max_window_layers < depth
        else:
            narrow = set(self.layer_types) != {_FULL}
        if narrow:
            raise ValueError(
                f"{self.model_type} with use_sliding_window={self.use_sliding_window}, sliding_window="
                f"{self.sliding_window}, max_window_layers={self.max_window_layers}, layer_types={self.layer_types} is "
                f"not read, only where every layer is of {_FULL!r}: a token sees all before it here"
            )


class Qwen2Config(_QwenConfig, model_type="qwen2"):
    """The config of a Qwen2 or Qwen2.5."""

    @property
    def biased(self) -> frozenset[str]:
        """Queries, keys and values."""
        return _ATTENTION - {"out"}


class Qwen3Config(_QwenConfig, model_type="qwen3"):
    """The config of a Qwen3."""

    head_dim: Whole = 128
    attention_bias: bool = False
    head_norm: ClassVar[bool] = True

    @property
    def biased(self) -> frozenset[str]:
        """All four layers of the attention, or none."""
        return _ATTENTION if self.attention_bias else frozenset()


C = TypeVar("C", bound=DecoderConfig)


def _backbone(config: DecoderConfig) -> Model:
    scaling = config.rope_scaling
    return llama(
        config.size,
        vocabulary=config.vocab_size,
        rotary=Rotary(config.rope_theta, None if scaling is None else scaling.of(config.max_position_embeddings)),
        parts=LlamaParts(
            config.num_key_value_heads,
            config.head_dim,
            "query" in config.biased,
            "out" in config.biased,
            "up" in config.biased,
            config.head_norm,
            config.logits,
            config.is_causal,
        ),
        eps=config.rms_norm_eps,
        attention_dropout=config.attention_dropout,
    )


def _tables(config: DecoderConfig) -> dict[str, Sequence[Rule]]:
    def table(logits: str | None) -> list[Rule]:
        return maps.transformers(biased=config.biased, head_norm=config.head_norm, logits=logits)

    if config.tie_word_embeddings:
        return {"transformers": table("words")}
    return {"transformers": table(None), PLAIN: table("lm_head")}


def _family(config: type[C], name: str, presets: Mapping[str, Mapping[str, Any]]) -> Family[C]:
    """One of the four families.

    Args:
      config: the class of its configs.
      name: what the names of transformers' classes begin with.
      presets: name -> entries.
    """

    def bare(config: DecoderConfig) -> str:
        return f"{name}Model" if config.logits is None else f"{name}ForCausalLM"

    return Family(
        config=config,
        names=", ".join(presets),
        named=by_preset(config.model_type, presets),
        backbone=lambda config: embedded(_backbone(config), config.embedding),
        example=lambda config: sentence(min(128, config.max_position_embeddings)),
        tables=lambda config: nameable(_tables(config), config.embedding),
        architecture=f"{name}ForSequenceClassification",
        bare=bare,
        head=lambda config, classes: heads.linear(classes, bias=False),
        depth=("num_hidden_layers", "layer_types"),
    )


FAMILIES = (
    _family(LlamaConfig, "Llama", LLAMA),
    _family(MistralConfig, "Mistral", MISTRAL),
    _family(Qwen2Config, "Qwen2", QWEN2),
    _family(Qwen3Config, "Qwen3", QWEN3),
)
