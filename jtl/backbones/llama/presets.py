"""Measures of published networks, by the names of their repositories."""

from collections.abc import Mapping
from typing import Any


def _sizes(width: int, hidden: int, depth: int, heads: int, groups: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        **others,
    }


_LLAMA3 = {"vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072}
_STRETCHED = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_SMOL = {
    "vocab_size": 49152,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_FAR, _TIED = {"rope_theta": 1000000.0}, {"tie_word_embeddings": True}
_THREE = {**_FAR, "max_position_embeddings": 40960}

LLAMA: Mapping[str, Mapping[str, Any]] = {
    "SmolLM2-135M": _sizes(576, 1536, 30, 9, 3, **_SMOL),
    "SmolLM2-360M": _sizes(960, 2560, 32, 15, 5, **_SMOL),
    "SmolLM2-1.7B": _sizes(2048, 8192, 24, 32, 32, **{**_SMOL, "rope_theta": 130000.0}),
    "TinyLlama-1.1B": _sizes(2048, 5632, 22, 32, 4, rms_norm_eps=1e-5),
    "Llama-3.2-1B": _sizes(2048, 8192, 16, 32, 8, **_LLAMA3, **_TIED, rope_scaling={**_STRETCHED, "factor": 32.0}),
    "Llama-3.2-3B": _sizes(3072, 8192, 28, 24, 8, **_LLAMA3, **_TIED, rope_scaling={**_STRETCHED, "factor": 32.0}),
    "Llama-3.1-8B": _sizes(4096, 14336, 32, 32, 8, **_LLAMA3, rope_scaling={**_STRETCHED, "factor": 8.0}),
}
MISTRAL: Mapping[str, Mapping[str, Any]] = {
    "Mistral-7B-v0.3": {
        **_FAR,
        "vocab_size": 32768,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "sliding_window": None,
    },
}
QWEN2: Mapping[str, Mapping[str, Any]] = {
    "Qwen2.5-0.5B": _sizes(896, 4864, 24, 14, 2, **_FAR, **_TIED),
    "Qwen2.5-1.5B": _sizes(1536, 8960, 28, 12, 2, **_FAR, **_TIED, max_position_embeddings=131072),
    "Qwen2.5-7B": _sizes(3584, 18944, 28, 28, 4, **_FAR, vocab_size=152064, max_position_embeddings=131072),
}
QWEN3: Mapping[str, Mapping[str, Any]] = {
    "Qwen3-0.6B": _sizes(1024, 3072, 28, 16, 8, **_THREE, **_TIED),
    "Qwen3-1.7B": _sizes(2048, 6144, 28, 16, 8, **_THREE, **_TIED),
    "Qwen3-4B": _sizes(2560, 9728, 36, 32, 8, **_THREE, **_TIED),
    "Qwen3-8B": _sizes(4096, 12288, 36, 32, 8, **_THREE),
}
