"""Prompts and prefixes in PEFT's files: `prompt_embeddings`, one array."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.params import flatten
from jtl.peft.attach import Adapter
from jtl.peft.prefix_tuning import prefix_tuning
from jtl.peft.prompt_tuning import prompt_tuning
from jtl.pretrained.load import Pretrained
from jtl.weights.mapping.export import export
from jtl.weights.mapping.rules import Rule

KINDS = ("PROMPT_TUNING", "PREFIX_TUNING")
NAME = "prompt_embeddings"
_DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


def read_prompts(config: Mapping[str, Any], value: Any, pretrained: Pretrained) -> tuple[Adapter, dict[str, Any]]:
    """The adapter that a config describes, and its leaves by path in the backbone.

    Raises:
      ValueError: for an encoder's prefix, which PEFT cannot run either, and an array of another shape.
    """
    kind, count, width = config["peft_type"], config["num_virtual_tokens"], np.shape(value)[-1]
    value = np.asarray(value)
    if kind == "PROMPT_TUNING":
        pool = "text" if pretrained.config.model_type in _DECODERS else "prompt"
        return prompt_tuning(count, pool=pool), {"adapter/words/prompt": value}
    _check(pretrained)
    paths = _attentions(pretrained.variables.params["backbone"])
    if width % (2 * len(paths)):
        raise ValueError(f"{NAME} is {value.shape}; this network has {len(paths)} attentions, keys and values in each")
    leaves = iter(np.split(value, 2 * len(paths), -1))
    return prefix_tuning(count), {f"adapter/{path}/{name}": next(leaves) for path in paths for name in ("key", "value")}


def write_prompts(
    adapter: Adapter, params: Mapping[str, Any], pretrained: Pretrained, table: Sequence[Rule]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config and the tensors of an adapter and the head: PEFT reads no prompt of a classifier without its head.

    Raises:
      ValueError: for an adapter without a PEFT counterpart.
    """
    config = {name: value for name, value in adapter.config.items() if name != "pool"}
    flat, decoder = flatten(params["backbone"]), pretrained.config.model_type in _DECODERS
    paths, tensors = _attentions(params["backbone"]), {}
    config |= {"task_type": "CAUSAL_LM", "num_transformer_submodules": 1, "num_layers": len(paths)}
    config["inference_mode"] = True
    if params.get("head"):
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
        tensors = {f"base_model.{name}": value for name, value in export({"head": params["head"]}, table).items()}
    measures = pretrained.config.to_dict()
    heads = measures.get("num_attention_heads", measures.get("n_head"))
    if config["peft_type"] == "PROMPT_TUNING":
        if not decoder and adapter.config["pool"] == "text":
            raise ValueError("PEFT's classifiers pool the prompt's first token: attach prompt_tuning(pool='prompt')")
        prompt = np.asarray(flat["adapter/words/prompt"])
        return config | {"token_dim": prompt.shape[1], "num_attention_heads": heads}, tensors | {NAME: prompt}
    _check(pretrained)
    missing = [path for path in paths if f"adapter/{path}/key" not in flat]
    if missing:
        raise ValueError(f"the attentions {missing} have no prefix; PEFT has one at every attention")
    leaves = [np.asarray(flat[f"adapter/{path}/{name}"]) for path in paths for name in ("key", "value")]
    config |= {"token_dim": leaves[0].shape[1], "num_attention_heads": measures.get("num_key_value_heads") or heads}
    return config, tensors | {NAME: np.concatenate(leaves, -1)}


def _check(pretrained: Pretrained) -> None:
    if pretrained.config.model_type not in _DECODERS:
        raise ValueError(
            f"prefix tuning of {pretrained.config.model_type!r} has no file of PEFT, which gives a prefix to decoders"
            f" alone, here {_DECODERS}: save its parameters with jtl.Checkpoints"
        )


def _attentions(backbone: Mapping[str, Any]) -> list[str]:
    numbers = sorted(int(name.removeprefix("block")) for name in backbone if re.fullmatch(r"block\d+", name))
    return [f"block{number}/attention" for number in numbers]
