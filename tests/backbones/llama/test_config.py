"""What a config says of networks that are not read is refused by name."""

import pytest

from jtl.backbones.registry import FAMILIES
from jtl.pretrained.recognise import recognise

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SLIDING = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("kind", "entries", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "llama with hidden_act='gelu' is not read, only with 'silu'"),
        ("llama", {"partial_rotary_factor": 0.5}, "llama with partial_rotary_factor=0.5 is not read, only with 1.0"),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type='longrope': give one of .*'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "mrope"}}, "rope_type='mrope': give one of"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor=None: give a number from 1.0"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor=0.5: give a number from 1.0"),
        ("llama", {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor=4.0, high_freq_factor=4.0"),
        ("llama", {"rope_scaling": {**LLAMA3, "type": "yarn"}}, "rope_type='llama3' and type='yarn'"),
        ("llama", {"rope_scaling": [8.0]}, "rope_scaling=.*give names and values"),
        (
            "llama",
            {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}},
            "rope_theta='5.0' and '6.0' by",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 6.0, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5 is not read, only with 1.0",
        ),
        ("llama", {"original_max_position_embeddings": 64}, "original_max_position_embeddings=64 is not read, only"),
        ("llama", {"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "heads of width 2"),
        ("llama", {"tie_word_embeddings": True, "with_lm_head": True}, "with_lm_head=True and tie_word_embeddings"),
        ("qwen2", {"is_causal": "no"}, "qwen2 with is_causal='no': give true or false"),
        ("clip_text_model", {"is_causal": False}, "clip_text_model with is_causal=False is not read, only with True"),
        ("mistral", {}, "mistral with sliding_window=4096 is not read, only with null or at least.*131072"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window=True, sliding_window=4096"),
        ("qwen3", {"layer_types": SLIDING, "num_hidden_layers": 2}, "layer_types=.*sliding_attention"),
        ("qwen3", {"layer_types": SLIDING}, "layer_types of 2 layers and num_hidden_layers=32"),
    ],
)
def test_another_network_is_refused(kind, entries, words):
    with pytest.raises(ValueError, match=words):
        FAMILIES[kind].complete({"model_type": kind, **entries})


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "gemma", "phi3", "llama4"])
def test_another_family_is_refused(kind):
    with pytest.raises(ValueError, match=f"model_type='{kind}' is not known; known are .*llama"):
        recognise(None, {"model_type": kind})


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 4096}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 128, "max_window_layers": 1}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 32}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1}),
        ("qwen3", {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2}),
    ],
)
def test_a_window_that_hides_nothing_is_read(kind, entries):
    config = FAMILIES[kind].complete({"model_type": kind, **entries})
    assert FAMILIES[kind].complete(config.to_dict()) == config


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_defaults_are_transformers(kind):
    """A config.json leaves out what is the default."""
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{kind}Config")()
    given = {"sliding_window": None} if kind == "Mistral" else {}
    ours = FAMILIES[kind.lower()].complete({"model_type": kind.lower(), **given})
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    same += ("max_position_embeddings", "rms_norm_eps", "attention_dropout", "tie_word_embeddings")
    for name in same:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.num_key_value_heads or ours.num_attention_heads) == theirs.num_key_value_heads
    assert ours.head == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": ours.rope_theta}
