"""Small networks of transformers with rotary positions, and texts padded on either side."""

from typing import Any

import numpy as np
from torch_resnets import randomise

VARIANTS = {
    "llama": ("Llama", {"num_key_value_heads": 2}),
    "llama, tied and biased": (
        "Llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 6},
    ),
    "mistral": ("Mistral", {"num_key_value_heads": 1, "sliding_window": None}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2, untied": ("Qwen2", {"num_key_value_heads": 4}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 6}),
    "qwen3, tied and biased": (
        "Qwen3",
        {"num_key_value_heads": 1, "head_dim": 4, "tie_word_embeddings": True, "attention_bias": True},
    ),
}
"""The beginning of transformers' class, and entries of its config."""


def made(name: str, head: str = "ForCausalLM", **changes: Any) -> Any:
    """transformers' network with random weights, norms and biases among them."""
    import transformers

    kind, options = VARIANTS[name]
    options = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 23, "num_hidden_layers": 2, **options}
    options |= {"num_attention_heads": 4, "rms_norm_eps": 1e-3, "max_position_embeddings": 32, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**{**options, **changes})
    return randomise(getattr(transformers, f"{kind}{head}")(config)).eval()


def texts(*sides: str, tokens: int = 9) -> dict[str, np.ndarray]:
    """For each side ids of four texts of other lengths, padded to `tokens` with 0 on that side."""
    rng = np.random.default_rng(1)
    mask = np.arange(tokens)[None] < np.array([[tokens], [tokens - 3], [2], [1]])
    mask = np.concatenate([mask[:, ::-1] if side == "left" else mask for side in sides])
    return {"ids": np.where(mask, rng.integers(2, 40, mask.shape), 0).astype(np.int32), "mask": mask}


def to_torch(x: dict[str, np.ndarray], *, counted: bool = True) -> dict[str, Any]:
    """The same by transformers' names; `counted` with the positions that its `generate` counts."""
    import torch

    mask = torch.tensor(x["mask"].astype(np.int64))
    given = {"input_ids": torch.tensor(x["ids"].astype(np.int64)), "attention_mask": mask}
    places = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    return {**given, "position_ids": places} if counted else given


def told(net: Any, x: dict[str, Any]) -> dict[str, Any]:
    """transformers' hidden states by jtl's names, and `logits`; the last block's before the normalisation too."""
    base, found = net.base_model, {}
    hooks = [
        layer.register_forward_hook(lambda module, args, out, name=f"stage{i}": found.__setitem__(name, out))
        for i, layer in enumerate(base.layers, 1)
    ]
    hooks.append(base.norm.register_forward_hook(lambda module, args, out: found.__setitem__("last", out)))
    found["logits"] = net(**x).logits
    for hook in hooks:
        hook.remove()
    return found


def in_float64(net: Any, monkeypatch: Any) -> Any:
    """A copy that computes in float64 what transformers has in float32 whatever the weights are.

    That is the normalisations, the wavelengths and softmax: they name `torch.float32`, which is another type here.
    """
    import torch

    for name in ("float", "float32"):
        monkeypatch.setattr(torch, name, torch.float64)
    copy = type(net)(net.config).double()
    copy.load_state_dict(net.state_dict())
    return copy
