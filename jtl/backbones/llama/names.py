"""Names of Llama, Mistral, Qwen2 and Qwen3 in transformers, with or without the model's prefix."""

from jtl.weights.mapping import transforms
from jtl.weights.mapping.rules import Rule

_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
_MLP = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def transformers(*, biased: frozenset[str], head_norm: bool, logits: str | None) -> list[Rule]:
    """Rules for LlamaModel, LlamaForCausalLM, LlamaForSequenceClassification and their counterparts in its relatives.

    Args:
      biased: the layers that have biases, such as "query" and "down".
      head_norm: whether each head's queries and keys are normalised.
      logits: what computes the next word's logits: "lm_head", a layer; "words", the words' embedding, of which
        `lm_head` is then a mere copy; None for no logits.
    """
    top = r"(?:model\.|)"
    name, path = rf"{top}layers\.(\d+)", "backbone/block{1+1}"
    rules = [
        Rule(rf"{top}embed_tokens\.weight", "backbone/words/embedding"),
        Rule(rf"{top}norm\.weight", "backbone/norm/scale"),
        Rule(r"score\.weight", "head/out/kernel", transforms.dense),
        Rule(rf"{name}\.input_layernorm\.weight", f"{path}/norm1/scale"),
        Rule(rf"{name}\.post_attention_layernorm\.weight", f"{path}/norm2/scale"),
        Rule(rf"{name}\.self_attn\.rotary_emb\.inv_freq", None),  # in old files
    ]
    if logits == "words":
        rules.append(Rule(r"lm_head\.weight", None))
    elif logits == "lm_head":
        rules.append(Rule(r"lm_head\.weight", "backbone/lm_head/kernel", transforms.dense))
    for part, layers in (("attention", _ATTENTION), ("mlp", _MLP)):
        theirs = "self_attn" if part == "attention" else "mlp"
        for layer, ours in layers.items():
            rules.append(Rule(rf"{name}\.{theirs}\.{layer}\.weight", f"{path}/{part}/{ours}/kernel", transforms.dense))
            if ours in biased:
                rules.append(Rule(rf"{name}\.{theirs}\.{layer}\.bias", f"{path}/{part}/{ours}/bias"))
    if head_norm:
        for letter, ours in (("q", "query"), ("k", "key")):
            rules.append(Rule(rf"{name}\.self_attn\.{letter}_norm\.weight", f"{path}/attention/{ours}_norm/scale"))
    return rules
