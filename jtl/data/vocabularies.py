"""The files that say how a pretrained network's texts are cut into tokens."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jtl.weights.errors import in_file, show
from jtl.weights.st_file import parse_json

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
_PADS = ("[PAD]", "<pad>", "<|endoftext|>")
HOLDS = "a tokenizer.json, a vocab.txt, or a vocab.json beside its merges.txt"


def read(path: Path) -> tuple[Any, dict[str, Any]]:
    """A `tokenizers.Tokenizer` and what a `tokenizer_config.json` says of it, with all that the file left out.

    Args:
      path: a folder that holds one of `HOLDS`, or such a file by any name: `.json` or `.txt`.

    Raises:
      FileNotFoundError: nothing of these is there.
      ValueError: a file is damaged or lacks a token; it is named.
    """
    folder = path if path.is_dir() else path.parent
    given = _object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
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
    """The token that fills texts up.

    Raises:
      ValueError: where none is named nor usual.
    """
    named = config.get("pad_token") or (backend.padding or {}).get("pad_token")
    for token in (_content(named),) if named else _PADS:
        if backend.token_to_id(token) is not None:
            return token
    raise ValueError(f"no token to pad with: pad_token is {show(named)}, and the vocabulary has none of {_PADS}")


def _whole(path: Path, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import tokenizers

    backend = _read(path, lambda: tokenizers.Tokenizer.from_file(str(path)))
    return backend, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": pad_of(backend, given), **given}


def _wordpiece(path: Path, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    config = {**_WORDPIECE, **given}
    unknown = _content(config["unk_token"])
    backend = Tokenizer(_read(path, lambda: models.WordPiece.from_file(str(path), unk_token=unknown)))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(config, "tokenize_chinese_chars"),
        strip_accents=None if config["strip_accents"] is None else _flag(config, "strip_accents"),
        lowercase=_flag(config, "do_lower_case"),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    _special(path, backend, config, ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token"))
    cls, sep = (_content(config[name]) for name in ("cls_token", "sep_token"))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )
    return backend, config


def _bytes(path: Path, merges: Path, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """GPT-2's way: bytes, merged by rules. RoBERTa's vocabulary has tokens around a text, GPT-2's has not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    model = _read(path, lambda: models.BPE.from_file(str(path), str(merges)))
    backend = Tokenizer(model)
    around = backend.token_to_id("<s>") is not None and backend.token_to_id("</s>") is not None
    config = {**(_ROBERTA if around else _GPT2), **given}
    space = bool(config["add_prefix_space"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    _special(path, backend, config, tuple(name for name in names if config.get(name)))
    if around:
        sep, cls = (_content(config[name]) for name in ("sep_token", "cls_token"))
        ends: Any = [(token, backend.token_to_id(token)) for token in (sep, cls)]
        backend.post_processor = processors.RobertaProcessing(ends[0], ends[1], bool(config["trim_offsets"]), space)
    else:
        backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return backend, config


def _special(path: Path, backend: Any, config: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Tokens that are found in a text before it is cut."""
    from tokenizers import AddedToken

    for name in names:
        value = config[name]
        if backend.token_to_id(_content(value)) is None:
            raise ValueError(f"{path}: the vocabulary lacks the {name} {show(_content(value))}")
        sides = {s: bool(value.get(s)) for s in ("lstrip", "rstrip", "single_word")} if isinstance(value, dict) else {}
        backend.add_special_tokens([AddedToken(_content(value), special=True, normalized=False, **sides)])


def _content(token: Any) -> str:
    """A token's text, which a config may give as an object of its properties."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str) or not text:
        raise ValueError(f"a special token is {show(text)}: give its text")
    return text


def _flag(config: Mapping[str, Any], name: str) -> bool:
    if not isinstance(config[name], bool):
        raise ValueError(f"{name}={show(config[name])} in tokenizer_config.json: give true or false")
    return config[name]


def _read(path: Path, make: Callable[[], Any]) -> Any:
    if not path.stat().st_size:
        raise ValueError(f"{path}: is empty")
    try:
        return make()
    except Exception as error:  # the only class that tokenizers raises
        raise ValueError(f"{path}: cannot be read as a tokenizer: {str(error)[:200]}") from error


def _object(path: Path) -> dict[str, Any]:
    with in_file(path):
        value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, not an object of names and values")
    return value
