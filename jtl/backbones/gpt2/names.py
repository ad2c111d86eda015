"""Names of GPT-2 in transformers, with or without the model's prefix."""

from jtl.weights.mapping import transforms
from jtl.weights.mapping.layers import norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import split


def transformers(tied: bool) -> list[Rule]:
    """Rules for GPT2Model, GPT2LMHeadModel and GPT2ForSequenceClassification; all kernels but the last are [in, out].

    Args:
      tied: whether the layer that computes the next word's logits is the words' embedding, so that its weights are a
        mere copy.
    """
    top = r"(?:transformer\.|)"
    name, path = rf"{top}h\.(\d+)", "backbone/block{1+1}"
    rules = [
        Rule(rf"{top}wte\.weight", "backbone/words/embedding"),
        Rule(rf"{top}wpe\.weight", "backbone/positions/embedding"),
        *norm(rf"{top}ln_f", "backbone/norm"),
        Rule(r"score\.weight", "head/out/kernel", transforms.dense),
        *([Rule(r"lm_head\.weight", None)] if tied else []),
        *norm(rf"{name}\.ln_([12])", rf"{path}/norm\2"),
        Rule(rf"{name}\.attn\.(?:bias|masked_bias)", None),  # the causal mask, in old files
    ]
    dense = {r"attn\.c_proj": "attention/out", r"mlp\.c_fc": "mlp/up", r"mlp\.c_proj": "mlp/down"}
    for leaf, target, axis in (("weight", "kernel", 1), ("bias", "bias", 0)):
        paths = tuple(f"{path}/attention/{part}/{target}" for part in ("query", "key", "value"))
        rules.append(Rule(rf"{name}\.attn\.c_attn\.{leaf}", paths, split(3, axis=axis)))
        rules += [Rule(rf"{name}\.{layer}\.{leaf}", f"{path}/{ours}/{target}") for layer, ours in dense.items()]
    return rules
