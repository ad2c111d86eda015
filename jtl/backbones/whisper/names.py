r"""Names of Whisper's encoder in transformers, with or without the model's prefix; the decoder is left."""

from jtl.weights.mapping.layers import dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import conv as channels_last
from jtl.weights.mapping.transforms import dense as transposed


def transformers(depth: int, headless: bool) -> list[Rule]:
    """Of WhisperModel, WhisperForConditionalGeneration and WhisperForAudioClassification.

    Args:
      depth: number of the encoder's blocks.
      headless: leaves the layer before the classifier out too.
    """
    top = r"(?:|model\.)encoder"
    rules = [
        Rule(r"(?:|model\.)decoder\..+", None),
        Rule(r"proj_out\.weight", None),  # the words' embedding again
        Rule(rf"{top}\.embed_positions\.weight", "stats/backbone/positions"),
        *norm(rf"{top}\.layer_norm", "backbone/norm"),
    ]
    for i in (1, 2):
        rules += [
            Rule(rf"{top}\.conv{i}\.weight", f"backbone/conv{i}/kernel", channels_last),
            Rule(rf"{top}\.conv{i}\.bias", f"backbone/conv{i}/bias"),
        ]
    for i in range(depth):
        name, path = rf"{top}\.layers\.{i}", f"backbone/block{i + 1}"
        rules += norm(rf"{name}\.self_attn_layer_norm", f"{path}/norm1")
        rules += norm(rf"{name}\.final_layer_norm", f"{path}/norm2")
        rules.append(Rule(rf"{name}\.self_attn\.k_proj\.weight", f"{path}/attention/key/kernel", transposed))
        for part, target in (("q_proj", "query"), ("v_proj", "value"), ("out_proj", "out")):
            rules += dense(rf"{name}\.self_attn\.{part}", f"{path}/attention/{target}")
        rules += [*dense(rf"{name}\.fc1", f"{path}/mlp/up"), *dense(rf"{name}\.fc2", f"{path}/mlp/down")]
    head = [*dense("projector", "backbone/projection"), *dense("classifier", "head/out")]
    return rules if headless else [*rules, *head]
