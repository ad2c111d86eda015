"""Broken and malicious checkpoint folders, for `jtl.load` and the reader of tokenizers: whole ones, then damaged."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

Folder = dict[str, bytes]
Tensors = dict[str, tuple[int, ...]]

VIT = {
    "model_type": "vit",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 3,
    "image_size": 4,
    "patch_size": 2,
    "num_channels": 1,
    "layer_norm_eps": 1e-12,
    "id2label": {"0": "ant", "1": "bee"},
}
RESNET = {
    "model_type": "resnet",
    "depths": [1],
    "hidden_sizes": [4],
    "embedding_size": 4,
    "layer_type": "basic",
    "num_channels": 1,
    "downsample_in_first_stage": False,
}
TIMM = {
    "architecture": "vit_tiny_patch2_4",
    "model_args": {"embed_dim": 6, "depth": 1, "num_heads": 3, "mlp_ratio": 0.5, "in_chans": 1},
    "pretrained_cfg": {
        "input_size": [1, 4, 4],
        "crop_pct": 0.9,
        "mean": [0.5],
        "std": [0.5],
        "interpolation": "bicubic",
    },
    "label_names": ["ant", "bee"],
}
IMAGES = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 4, "width": 4},
    "resample": 2,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "he", "##llo", "you")
MERGED = {"<|endoftext|>": 0, "h": 1, "e": 2, "l": 3, "o": 4, "he": 5, "ll": 6, "\u0120": 7}
SET_UP = {"do_lower_case": True, "unk_token": "[UNK]", "pad_token": {"content": "[PAD]", "lstrip": False}}
SPECIAL = {
    "id": 0,
    "content": "[PAD]",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
    "added_tokens": [SPECIAL],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {word: i for i, word in enumerate(WORDS)},
    },
}


def numbers(count: int) -> bytes:
    """So many float32 of moderate size."""
    return b"".join(bytes([i % 251, 7 * i % 256, i % 64, 63]) for i in range(count))


def weights(tensors: Tensors) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a safetensors file."""
    header, reached = {}, 0
    for name, shape in tensors.items():
        end = reached + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [reached, end]}
        reached = end
    return header, numbers(reached // 4)


def safetensors(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def halves(tensors: Tensors) -> Folder:
    """Two files and their index."""
    files = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
    index = {"metadata": {"total_size": 1}, "weight_map": {n: file for file, names in files.items() for n in names}}
    made = {file: safetensors(*weights({n: tensors[n] for n in names})) for file, names in files.items()}
    return {"model.safetensors.index.json": json.dumps(index).encode(), **made}


JUNK: tuple[Any, ...] = (
    *(None, True, "", "x" * 300, "../../etc/passwd", "\0", -1, 0, 1, 2, 3, 255, 65536, 1 << 24, 10**30),
    *(1.5, 1e-300, 1e300),
    *([], [[]], {}, {"a": 1}, [None], [1, 2, 3], [65536] * 64, "vit", "resnet", "gelu"),
)  # fmt: skip


def junk(rng: random.Random, value: Any) -> Any:
    """One entry, at any depth, is another, gone, renamed, or come twice."""
    value = copy.deepcopy(value)
    node = value
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        how = rng.random()
        if how < 0.15:
            del node[key]
        elif how < 0.3 and isinstance(node, dict):
            node[str(rng.choice([f"{key}x", f"../{key}", "x" * 1000, "\0", f"{key}.{key}"]))] = node.pop(key)
        elif how < 0.4 and isinstance(node, dict):
            node[f"{key}2"] = node[key]
        else:
            node[key] = rng.choice(JUNK)
        break
    return value


def deep(rng: random.Random) -> bytes:
    """JSON that nests."""
    opened = rng.choice([b"[", b'{"a":', b'{"weight_map":[', b'{"model_type":{"a":'])
    return opened * rng.choice([100, 5000, 100_000])


def in_header(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header says something else, in the right length."""
    length = int.from_bytes(data[:8], "little")
    return safetensors(junk(rng, json.loads(data[8 : 8 + length])), data[8 + length :])


Bytes = Callable[[random.Random, bytes], bytes]


JSON = (".json", "METADATA", "array_metadatas/process_0")


def damaged(rng: random.Random, folder: Folder, of_bytes: tuple[Bytes, ...]) -> tuple[str, Folder]:
    """One file of a folder changed, or all of them swapped, with a word that says how."""
    name = rng.choice(sorted(n for n in folder if folder[n]))
    data = folder[name]
    ways = ["bytes", "absent", "empty", "swapped", "deep"]
    ways += ["junk"] * 12 if name.endswith(JSON) else ["header"] * 8 if name.endswith(".safetensors") else []
    how = rng.choice([*ways, "bytes", "bytes"])
    if how == "absent":
        return f"{name} absent", {n: d for n, d in folder.items() if n != name}
    if how == "swapped":
        other = rng.choice(sorted(folder))
        return f"{name} swapped with {other}", {**folder, name: folder[other], other: data}
    if how == "bytes":
        mutation = rng.choice(of_bytes)
        return f"{mutation.__name__} of {name}", {**folder, name: mutation(rng, data)}
    if how == "junk":
        changed = json.dumps(junk(rng, json.loads(data))).encode()
    elif how == "header":
        changed = in_header(rng, data)
    else:
        changed = b"" if how == "empty" else deep(rng)
    return f"{how} in {name}", {**folder, name: changed}


def cases(
    whole: dict[str, Folder], seed: int, count: int, of_bytes: tuple[Bytes, ...]
) -> Iterator[tuple[str, str, Folder]]:
    """`count` damaged folders: a label that tells how to make it again, the name of the whole one, the files."""
    for i in range(count):
        rng = random.Random(f"{seed}/{i}")
        name = list(whole)[i % len(whole)]
        how, files = damaged(rng, whole[name], of_bytes)
        yield f"seed {seed} case {i}: {name}, {how}", name, files


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


TOKENIZERS: dict[str, Folder] = {
    "tokenizer.json": {"tokenizer.json": text(TOKENIZER), "tokenizer_config.json": text(SET_UP)},
    "vocab.txt": {"vocab.txt": "\n".join(WORDS).encode(), "tokenizer_config.json": text(SET_UP)},
    "merges": {"vocab.json": text(MERGED), "merges.txt": b"#version: 0.2\nh e\nl l\n", "tokenizer_config.json": b"{}"},
}
