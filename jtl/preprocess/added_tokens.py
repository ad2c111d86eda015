"""Added tokens, which a network has in addition to its vocabulary, and the files that name them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.weights.formats.errors import show
from jtl.weights.formats.json import read_json


def told(folder: Path) -> dict[str, Any]:
    """Reads a folder's `tokenizer_config.json`, completed by the other files in which older repositories keep settings.

    `special_tokens_map.json` names tokens that the config does not, `added_tokens.json` holds the ids of tokens outside
    the vocabulary, and `config.json` may name the tokenizer's class.

    Raises:
      ValueError: if a file is damaged, naming it.
    """
    config = read_json(folder / "tokenizer_config.json", dict) or {}
    for name, value in (read_json(folder / "special_tokens_map.json", dict) or {}).items():
        config.setdefault(name, value)
    if "added_tokens_decoder" not in config:
        named = [v for name, v in config.items() if name.endswith("_token") and isinstance(v, (str, dict))]
        special = {content(token) for token in named if token}
        added = {
            str(place): {"content": token, "special": token in special, "normalized": token not in special}
            for token, place in (read_json(folder / "added_tokens.json", dict) or {}).items()
        }
        config |= {"added_tokens_decoder": added} if added else {}
    kind = (read_json(folder / "config.json", dict) or {}).get("tokenizer_class")
    return {"tokenizer_class": kind, **config} if kind else config


def add(path: Path, backend: Any, config: Mapping[str, Any]) -> None:
    """Adds the tokens of `added_tokens_decoder` and of `additional_special_tokens` to a `tokenizers.Tokenizer`.

    Args:
      path: the vocabulary, for messages.
      backend: the tokenizer, which is changed in place.
      config: the result of `told`.

    Raises:
      ValueError: if a token would get another id than the file specifies, or is not a token.
    """
    from tokenizers import AddedToken

    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, Mapping) or not all(str(place).isdecimal() for place in decoder):
        raise ValueError(f"{path}: added_tokens_decoder={show(str(decoder))}: give ids and their tokens")
    known = set(backend.get_added_tokens_decoder())
    for place in sorted(map(int, decoder)):
        token = decoder[str(place)]
        special = isinstance(token, Mapping) and bool(token.get("special"))
        sides = {s: bool(token.get(s)) for s in ("lstrip", "rstrip", "single_word")} if isinstance(token, dict) else {}
        usual = bool(token.get("normalized", not special)) if isinstance(token, Mapping) else True
        found = backend.token_to_id(content(token))
        if (backend.get_vocab_size() if found is None else found) != place:
            raise ValueError(
                f"{path}: {show(content(token))} is to have the id {place}; the vocabulary gives it "
                f"{backend.get_vocab_size() if found is None else found}"
            )
        if place not in known:  # for its own tokens, a tokenizer.json specifies how they are matched
            one = AddedToken(content(token), special=special, normalized=usual, **sides)
            (backend.add_special_tokens if special else backend.add_tokens)([one])
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name) or []
        for token in more.values() if isinstance(more, Mapping) else more:
            if backend.token_to_id(content(token)) is None:
                backend.add_special_tokens([AddedToken(content(token), special=True, normalized=False)])


def content(token: Any) -> str:
    """Returns a token's text, which a config may hold within an object of its properties."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str) or not text:
        raise ValueError(f"a special token is {show(text)}: give its text")
    return text
