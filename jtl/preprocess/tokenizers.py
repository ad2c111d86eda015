"""Reads a pretrained network's tokenizer files."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jtl.preprocess.added_tokens import add, content, told
from jtl.preprocess.tokenizer_limits import check_limits
from jtl.weights.formats.errors import show

_WORDPIECE = {
    "tokenizer_class": "BertTokenizer",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
}
_ROBERTA = {
    "tokenizer_class": "RobertaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
    "add_prefix_space": False,
    "trim_offsets": True,
}
_GPT2 = {
    "tokenizer_class": "GPT2Tokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "add_prefix_space": False,
}
_CLIP = {
    "tokenizer_class": "CLIPTokenizer",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_ANY = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_READ_AS = {
    "a vocab.txt": (
        "Bert",
        "DistilBert",
        "Electra",
        "MobileBert",
        "LayoutLM",
        "DPRContextEncoder",
        "DPRQuestionEncoder",
    ),
    "a vocab.json with its merges.txt": ("GPT2", "Roberta", "CLIP", "Longformer", "Bart"),
}
"""The models whose tokenizers are read, by the files that define them."""
_PADS = ("[PAD]", "<pad>", "<|endoftext|>")
HOLDS = "a tokenizer.json, a vocab.txt, or a vocab.json beside its merges.txt"


def read(path: Path) -> tuple[Any, dict[str, Any]]:
    """Returns a `tokenizers.Tokenizer`, and its `tokenizer_config.json` completed by the defaults.

    Args:
      path: a folder that holds one of `HOLDS`, or such a file by any name with the suffix `.json` or `.txt`.

    Raises:
      FileNotFoundError: if none of these files exists.
      ValueError: if a file is damaged or lacks a token, naming it.
    """
    folder = path if path.is_dir() else path.parent
    given = told(folder)
    if path.is_file():
        return _whole(path, given) if path.suffix == ".json" else _wordpiece(path, given)
    if (path / "tokenizer.json").exists():
        return _whole(path / "tokenizer.json", given)
    if (path / "vocab.txt").exists():
        return _wordpiece(path / "vocab.txt", given)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return _bytes(path / "vocab.json", path / "merges.txt", given)
    held = ", ".join(sorted(p.name for p in path.iterdir())[:20]) if path.is_dir() else "nothing of that name"
    raise FileNotFoundError(f"{path}: {held or 'nothing'} there; looked for {HOLDS}")


def pad_of(backend: Any, config: Mapping[str, Any]) -> str:
    """Returns the padding token.

    Raises:
      ValueError: if no token is named, and the vocabulary has none of the usual ones.
    """
    named = config.get("pad_token") or (backend.padding or {}).get("pad_token")
    for token in (content(named),) if named else _PADS:
        if backend.token_to_id(token) is not None:
            return token
    raise ValueError(f"no token to pad with: pad_token is {show(named)}, and the vocabulary has none of {_PADS}")


def splits_special(config: Mapping[str, Any]) -> bool:
    """Returns whether the name of a special token within a text is split like any other word.

    Raises:
      ValueError: if `split_special_tokens` is neither true nor false.
    """
    return config.get("split_special_tokens") is not None and _flag(config, "split_special_tokens")


def tells_parts(config: Mapping[str, Any]) -> bool:
    """Returns whether the network takes token types, which mark the tokens of a second text.

    Raises:
      ValueError: if `model_input_names` is not a list of names.
    """
    named = config.get("model_input_names")
    if named is None:
        return True
    if not isinstance(named, (list, tuple)) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"model_input_names={show(str(named))} in tokenizer_config.json: give a list of names")
    return "token_type_ids" in named


def _whole(path: Path, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import tokenizers

    if path.stat().st_size:  # `_read` reports an empty file
        check_limits(path)
    backend = _read(path, lambda: tokenizers.Tokenizer.from_file(str(path)))
    add(path, backend, given)
    _changed(backend, given)
    return backend, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": pad_of(backend, given), **given}


def _changed(backend: Any, given: Mapping[str, Any]) -> None:
    """Lets the config of a BERT, a GPT-2 or a RoBERTa override its tokenizer.json, as transformers does."""
    from tokenizers import normalizers, pre_tokenizers

    if given.get("tokenizer_class") in _ANY:
        return
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        words = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
        new = backend.normalizer
        for name, word in {**words, "strip_accents": "strip_accents"}.items():
            if given.get(name) is not None:
                setattr(new, word, _flag(given, name))
        backend.normalizer = new
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and given.get("add_prefix_space") is not None:
        new = backend.pre_tokenizer
        new.add_prefix_space = _flag(given, "add_prefix_space")
        backend.pre_tokenizer = new


def _wordpiece(path: Path, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    _readable(path, given, "a vocab.txt")
    config = {**_WORDPIECE, **given}
    unknown = content(config["unk_token"])
    backend = Tokenizer(_read(path, lambda: models.WordPiece.from_file(str(path), unk_token=unknown)))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(config, "tokenize_chinese_chars"),
        strip_accents=None if config["strip_accents"] is None else _flag(config, "strip_accents"),
        lowercase=_flag(config, "do_lower_case"),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    add(path, backend, config)
    _special(path, backend, config, ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token"))
    cls, sep = (content(config[name]) for name in ("cls_token", "sep_token"))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )
    return backend, config


def _bytes(path: Path, merges: Path, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Reads the byte-level BPE of GPT-2 and RoBERTa; RoBERTa adds tokens around a text, GPT-2 does not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    _readable(path, given, "a vocab.json with its merges.txt")
    model = _read(path, lambda: models.BPE.from_file(str(path), str(merges)))
    backend = Tokenizer(model)
    if sum(token.endswith("</w>") for token in backend.get_vocab()) > 0.1 * backend.get_vocab_size():
        return _clip(path, model, given)
    around = all(backend.token_to_id(token) is not None for token in ("<s>", "</s>"))
    around = around and _stem(given.get("tokenizer_class")) != "GPT2"
    config = {**(_ROBERTA if around else _GPT2), **given}
    space = bool(config["add_prefix_space"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    for name in ("add_bos_token", "add_eos_token"):
        if config.get(name):
            raise ValueError(f"{path}: {name}=True in tokenizer_config.json is not read; give a tokenizer.json")
    add(path, backend, config)
    _special(path, backend, config, tuple(name for name in names if config.get(name)))
    if around:
        sep, cls = (content(config[name]) for name in ("sep_token", "cls_token"))
        ends: Any = [(token, backend.token_to_id(token)) for token in (sep, cls)]
        backend.post_processor = processors.RobertaProcessing(ends[0], ends[1], bool(config["trim_offsets"]), space)
    else:
        backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return backend, config


def _clip(path: Path, model: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Reads CLIP's BPE: lower case, words split by a pattern, the last piece of each word marked by `</w>`.

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

    config = {**_CLIP, **{name: value for name, value in given.items() if value is not None}}
    model.end_of_word_suffix, model.unk_token = "</w>", content(config["unk_token"])
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    add(path, backend, config)
    _special(path, backend, config, ("bos_token", "eos_token", "unk_token", "pad_token"))
    eos, bos = (content(config[name]) for name in ("eos_token", "bos_token"))
    ends: Any = [(token, backend.token_to_id(token)) for token in (eos, bos)]
    backend.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return backend, config


def _readable(path: Path, config: Mapping[str, Any], made_of: str) -> None:
    """Refuses a tokenizer whose algorithm differs although its files have the usual names."""
    kind, read = config.get("tokenizer_class"), _READ_AS[made_of]
    if kind is not None and kind not in _ANY and _stem(kind) not in read:
        raise ValueError(
            f"{path}: tokenizer_class={show(kind)}: of {made_of} are read those of {', '.join(read)}; for another give "
            "its tokenizer.json, which transformers writes"
        )
    if config.get("word_tokenizer_type", "basic") != "basic":
        raise ValueError(f"{path}: word_tokenizer_type={show(config['word_tokenizer_type'])}: only 'basic' is known")


def _stem(kind: Any) -> str:
    return re.sub(r"Tokenizer(Fast)?$", "", str(kind))


def _special(path: Path, backend: Any, config: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Adds the special tokens, which are matched in a text before it is split."""
    from tokenizers import AddedToken

    for name in names:
        value = config[name]
        if backend.token_to_id(content(value)) is None:
            raise ValueError(f"{path}: the vocabulary lacks the {name} {show(content(value))}")
        if backend.token_to_id(content(value)) in backend.get_added_tokens_decoder():
            continue
        sides = {s: bool(value.get(s)) for s in ("lstrip", "rstrip", "single_word")} if isinstance(value, dict) else {}
        backend.add_special_tokens([AddedToken(content(value), special=True, normalized=False, **sides)])


def _flag(config: Mapping[str, Any], name: str) -> bool:
    if not isinstance(config[name], bool):
        raise ValueError(f"{name}={show(config[name])} in tokenizer_config.json: give true or false")
    return config[name]


def _read(path: Path, make: Callable[[], Any]) -> Any:
    if not path.stat().st_size:
        raise ValueError(f"{path}: is empty")
    try:
        return make()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # a panic of Rust
            raise
        raise ValueError(f"{path}: cannot be read as a tokenizer: {str(error)[:200]}") from error
