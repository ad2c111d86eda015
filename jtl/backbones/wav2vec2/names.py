r"""Names of wav2vec 2.0 and HuBERT in transformers, with or without the model's prefix.

The layers of pretraining and transcription (`quantizer.*`, `project_hid.*`, `project_q.*`, `lm_head.*`) have no place
in a classifier: skip them with `unused=`.
"""

import numpy as np

from jtl.weights.mapping.layers import dense, norm
from jtl.weights.mapping.rules import Rule
from jtl.weights.mapping.transforms import Transform
from jtl.weights.mapping.transforms import conv as channels_last

_BLOCK = {
    r"attention\.q_proj": "attention/query",
    r"attention\.k_proj": "attention/key",
    r"attention\.v_proj": "attention/value",
    r"attention\.out_proj": "attention/out",
    r"feed_forward\.intermediate_dense": "mlp/up",
    r"feed_forward\.output_dense": "mlp/down",
}


def transformers(top: str, masked: bool, headless: bool) -> list[Rule]:
    """Rules for Wav2Vec2Model, HubertModel and their classes for sequence classification.

    Args:
      top: prefix of the names, as a regex without groups other than `(?:...)`.
      masked: whether the vector of masked frames is a parameter, or is not read.
      headless: leaves out the layer before the classifier too.
    """
    place = rf"{top}encoder\.pos_conv_embed\.conv"
    rules = [
        *norm(rf"{top}feature_projection\.layer_norm", "backbone/embed_norm"),
        *dense(rf"{top}feature_projection\.projection", "backbone/embed"),
        Rule(rf"{top}masked_spec_embed", "backbone/masked" if masked else None),
        # The first spelling is torch's since version 2.
        Rule(rf"{place}\.(?:parametrizations\.weight\.original0|weight_g)", "backbone/positions/length", lengths),
        Rule(
            rf"{place}\.(?:parametrizations\.weight\.original1|weight_v)", "backbone/positions/direction", channels_last
        ),
        Rule(rf"{place}\.bias", "backbone/positions/bias"),
        *norm(rf"{top}encoder\.layer_norm", "backbone/norm"),
    ]
    name, path = rf"{top}feature_extractor\.conv_layers\.(\d+)", "backbone/conv{1+1}"
    rules += [
        Rule(rf"{name}\.conv\.weight", f"{path}/conv/kernel", channels_last),
        Rule(rf"{name}\.conv\.bias", f"{path}/conv/bias"),
        *norm(rf"{name}\.layer_norm", f"{path}/norm"),
    ]
    name, path = rf"{top}encoder\.layers\.(\d+)", "backbone/block{1+1}"
    rules += [*norm(rf"{name}\.layer_norm", f"{path}/norm1"), *norm(rf"{name}\.final_layer_norm", f"{path}/norm2")]
    for layer, ours in _BLOCK.items():
        rules += dense(rf"{name}\.{layer}", f"{path}/{ours}")
    head = [*dense("projector", "backbone/projection"), *dense("classifier", "head/out")]
    return rules if headless else [*rules, *head]


def _only_last(x: np.ndarray) -> np.ndarray:
    if x.ndim != 3 or x.shape[:2] != (1, 1):
        raise ValueError(f"one length for each step has shape [1, 1, steps], this array {x.shape}")
    return x.reshape(-1)


lengths = Transform("[1,1,k] -> [k]", _only_last, lambda x: x.reshape(1, 1, -1))
