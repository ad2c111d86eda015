"""sentence-transformers in a process of its own: makes small networks, and embeds by the folders that jtl wrote.

Reads one request a line, {"do": "make" or "embed", "folder": ..., "texts": [...]}, and answers "done" to each.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer, models
from torch_resnets import randomise

KINDS = {"mean": ["mean"], "cls": ["cls"], "several": ["cls", "max", "mean", "mean_sqrt_len_tokens"]}
KINDS |= {"prompted": ["mean"], "unpooled": ["mean", "max", "weightedmean", "cls"]}
KINDS |= {"decoder": ["lasttoken"], "decoder_left": ["lasttoken", "cls", "weightedmean"]}
PROMPTS = {"query": "b c ", "passage": "d "}


def network(folder: Path, pooling: list[str], kind: str) -> SentenceTransformer:
    """Of a tiny network that lies in the folder; two kinds have a prompt, which one of them does not pool."""
    pool = models.Pooling(12, pooling_mode=tuple(pooling), include_prompt=kind != "unpooled")
    body = models.Transformer(str(folder), max_seq_length=8)
    body.tokenizer.padding_side = "left" if kind == "decoder_left" else "right"
    modules = [body, pool]
    told = {"prompts": PROMPTS, "default_prompt_name": "query"} if kind in ("prompted", "unpooled") else {}
    return SentenceTransformer(modules=[*modules, *([models.Normalize()] if kind != "cls" else [])], **told)


def make(folder: Path, texts: list[str]) -> None:
    """Folders and embeddings of each kind, around a BERT and a Qwen2."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (folder / "vocab.txt").write_text("\n".join(words))
    measures = {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": len(words)}
    torch.manual_seed(0)
    bert = transformers.BertModel(transformers.BertConfig(hidden_size=12, **measures))
    qwen2 = transformers.Qwen2Model(transformers.Qwen2Config(hidden_size=12, num_key_value_heads=3, **measures))
    for name, net in (("bert", bert), ("decoder", qwen2)):
        transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / name)
        randomise(net).save_pretrained(folder / name)
    for kind, pooling in KINDS.items():
        made = network(folder / ("decoder" if kind.startswith("decoder") else "bert"), pooling, kind)
        made.save(str(folder / kind))
        np.save(folder / f"{kind}.npy", made.encode(texts))


def embed(folder: Path, texts: list[str]) -> None:
    """Embeddings by the folders of each kind that jtl wrote."""
    for kind in KINDS:
        np.save(folder / f"{kind}_ours.npy", SentenceTransformer(str(folder / f"{kind}_ours")).encode(texts))


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        {"make": make, "embed": embed}[request["do"]](Path(request["folder"]), request["texts"])
        print("done", flush=True)
