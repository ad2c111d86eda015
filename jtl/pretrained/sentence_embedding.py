"""Loads networks of sentence-transformers: a transformer, and modules that turn its tokens into one embedding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.backbones.registry import FAMILIES
from jtl.nn.sentence_pooling import POOLINGS
from jtl.preprocess.tokenizer_files import Vocabulary
from jtl.pretrained.load import Pretrained, load
from jtl.pretrained.recognise import recognise
from jtl.weights.formats.errors import show
from jtl.weights.formats.hub import PROMPTS, locate
from jtl.weights.formats.json import read_json

MODULES = "modules.json"
_WORDS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
}
_MODES = {word: _WORDS.get(word, f"pooling_mode_{word}") for word in POOLINGS}


def embedder(source: str | Path, **options: Any) -> Pretrained:
    """Loads a network of sentence-transformers whose `pooled` is the embedding that its modules compute for a text.

    Every method of jtl therefore sees that embedding; `jtl.load` reads the transformer alone, which has its own
    `pooled`. If the network expects a prompt before a text, `jtl.preprocess.text.tokenizer` adds it.

    Sentence-transformers reads what `jtl.save` writes as "hf"; with a head on the embedding, use the format "jtl".

    Args:
      source: a folder with a `modules.json`, or `hf:org/name`.
      **options: options of `jtl.load`, except `arch`.

    Raises:
      FileNotFoundError: if the path or its `modules.json` does not exist.
      ValueError: for modules other than a transformer, a pooling and a normalisation, an unknown pooling, or a network
        that is not one of texts, such as BERT or Llama.

    Example:
      >>> from jtl.pretrained.sentence_embedding import embedder
      >>> loaded = embedder("hf:sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP

    Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, 2019, arXiv 1908.10084.
    """
    folder = locate(source, needs=(MODULES,))
    rows: Any = read_json(folder / MODULES, list)
    if rows is None:
        raise FileNotFoundError(f"{folder} has no {MODULES}, as folders of sentence-transformers have; use jtl.load")
    kinds, paths = [], []
    for row in rows:
        kind, path = (row.get("type"), row.get("path")) if isinstance(row, Mapping) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or Path(path).is_absolute() or ".." in path:
            raise ValueError(f"{folder / MODULES}: {show(str(row))} is no module: give its type and its folder")
        kinds.append(kind.rsplit(".", 1)[-1])
        paths.append(path)
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]) or paths[0]:
        raise ValueError(
            f"{folder / MODULES}: has {show(str(list(zip(kinds, paths, strict=True))))}; read are a Transformer in the "
            "folder itself, a Pooling and perhaps a Normalize"
        )
    lowered = read_json(folder / "sentence_bert_config.json", dict) or {}
    if lowered.get("do_lower_case"):
        raise ValueError(f"{folder}: sentence_bert_config.json has do_lower_case: lower the texts, and set it to false")
    config = read_json(folder / "config.json", dict) or {}
    family = recognise(None, config).family
    if not hasattr(family.config, "embedding"):
        known = [kind for kind, one in FAMILIES.items() if hasattr(one.config, "embedding")]
        kind = family.config.model_type
        raise ValueError(f"{folder}: of a {show(kind)} no embedding is read, only of {', '.join(known)}; use jtl.load")
    told = {"pooling": _pooling(folder / paths[1] / "config.json"), "normalise": "Normalize" in kinds}
    loaded = load(folder, arch={**config, "embedding": told}, **options)
    own = [MODULES, *(f"{path}/config.json" for path in paths[1:]), "sentence_bert_config.json", PROMPTS]
    files = tuple(name for name in own if (folder / name).is_file())
    tokens = () if loaded.tokenizer is None else loaded.tokenizer.files
    return loaded._replace(tokenizer=Vocabulary(folder, (*tokens, *files)))


def _pooling(path: Path) -> list[str]:
    """Returns the poolings of a `1_Pooling/config.json`, in the form of the first versions or of version 6."""
    config = read_json(path, dict)
    if config is None:
        raise FileNotFoundError(f"{path} does not exist, and modules.json names it")
    given = config.get("pooling_mode")
    if given is None:
        on = [mode for mode, value in config.items() if mode.startswith("pooling_mode_") and value]
        # The first versions had a fixed order; version 6 uses the order of the list.
        given = [word for word, mode in _MODES.items() if mode in on] + [m for m in on if m not in _MODES.values()]
    modes = [given] if isinstance(given, str) else given
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise ValueError(f"{path}: pools by {show(str(modes))}; known are {list(POOLINGS)}")
    return [str(mode) for mode in modes]
