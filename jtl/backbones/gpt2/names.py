"""Names of GPT-2 in transformers, with or without the model's prefix."""

from jtl.weights.mapping import transforms
from jtl.weights.mapping.layers import norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import split


def transformers(depth: int, tied: bool) -> list[Rule]:
    """Of GPT2Model, GPT2LMHeadModel and GPT2ForSequenceClassification; kernels are [in, out] but the classifier's.

    Args:
      depth: number of blocks.
      tied: whether the layer that gives the next word's logits is the words' embedding, and no more than a copy of it.
    """
    top = r"(?:transformer\.|)"
    rules = [
        Rule(rf"{top}wte\.weight", "backbone/words/embedding"),
        Rule(rf"{top}wpe\.weight", "backbone/positions/embedding"),
        *norm(rf"{top}ln_f", "backbone/norm"),
        Rule(r"score\.weight", "head/out/kernel", transforms.dense),
        *([Rule(r"lm_head\.weight", None)] if tied else []),
    ]
    dense = {r"attn\.c_proj": "attention/out", r"mlp\.c_fc": "mlp/up", r"mlp\.c_proj": "mlp/down"}
    for i in range(depth):
        name, path = rf"{top}h\.{i}", f"backbone/block{i + 1}"
        rules += [*norm(rf"{name}\.ln_1", f"{path}/norm1"), *norm(rf"{name}\.ln_2", f"{path}/norm2")]
        for leaf, target, axis in (("weight", "kernel", 1), ("bias", "bias", 0)):
            paths = tuple(f"{path}/attention/{part}/{target}" for part in ("query", "key", "value"))
            rules.append(Rule(rf"{name}\.attn\.c_attn\.{leaf}", paths, split(3, axis=axis)))
            rules += [Rule(rf"{name}\.{layer}\.{leaf}", f"{path}/{ours}/{target}") for layer, ours in dense.items()]
        rules += [Rule(rf"{name}\.attn\.(?:bias|masked_bias)", None)]  # the triangle of ones, in old files
    return rules
