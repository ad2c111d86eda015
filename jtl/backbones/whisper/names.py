r"""Names of Whisper's encoder in transformers, with or without the model's prefix; the decoder is not read."""

from jtl.weights.mapping.layers import dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import conv as channels_last
from jtl.weights.mapping.transforms import dense as transposed


def transformers(headless: bool) -> list[Rule]:
    """Rules for WhisperModel, WhisperForConditionalGeneration and WhisperForAudioClassification.

    Args:
      headless: leaves out the layer before the classifier too.
    """
    top = r"(?:|model\.)encoder"
    name, path = rf"{top}\.layers\.(\d+)", "backbone/block{1+1}"
    rules = [
        Rule(r"(?:|model\.)decoder\..+", None),
        Rule(r"proj_out\.weight", None),  # a copy of the words' embedding
        Rule(rf"{top}\.embed_positions\.weight", "stats/backbone/positions"),
        *norm(rf"{top}\.layer_norm", "backbone/norm"),
        Rule(rf"{top}\.conv([12])\.weight", r"backbone/conv\1/kernel", channels_last),
        Rule(rf"{top}\.conv([12])\.bias", r"backbone/conv\1/bias"),
        *norm(rf"{name}\.self_attn_layer_norm", f"{path}/norm1"),
        *norm(rf"{name}\.final_layer_norm", f"{path}/norm2"),
        Rule(rf"{name}\.self_attn\.k_proj\.weight", f"{path}/attention/key/kernel", transposed),
        *dense(rf"{name}\.fc1", f"{path}/mlp/up"),
        *dense(rf"{name}\.fc2", f"{path}/mlp/down"),
    ]
    for part, target in (("q_proj", "query"), ("v_proj", "value"), ("out_proj", "out")):
        rules += dense(rf"{name}\.self_attn\.{part}", f"{path}/attention/{target}")
    head = [*dense("projector", "backbone/projection"), *dense("classifier", "head/out")]
    return rules if headless else [*rules, *head]
