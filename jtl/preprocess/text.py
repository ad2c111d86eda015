"""Converts texts to token ids, with the tokenizer that comes with the weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jtl.paths import local
from jtl.preprocess import tokenizers
from jtl.preprocess.prompts import Prompt, read_prompt
from jtl.preprocess.tokenizer_files import Vocabulary
from jtl.weights.formats.hub import PROMPTS, locate


@dataclass(frozen=True)
class Tokenizer:
    """Cuts texts into tokens: `tokenizer(texts)`, or `tokenizer(questions, answers)` for pairs.

    Args:
      backend: a `tokenizers.Tokenizer` that truncates and pads to `length`.
      length: tokens per row, special tokens included.
      config: the `tokenizer_config.json`.
      prompt: the prompt that is put before each text.
    """

    backend: Any
    length: int
    config: dict[str, Any]
    prompt: Prompt = Prompt()

    @property
    def size(self) -> int:
        """The number of token ids."""
        return self.backend.get_vocab_size()

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Returns the input of a text backbone, like transformers' tokenizers with `truncation=True`.

        Args:
          texts: any number of texts; one that is too long is cut, and of a pair the longer text is.
          pairs: the second text of each pair; None for single texts.

        Returns:
          {"ids": int32 [texts, length], "mask": bool, true where there is a token, "types": int32, 1 for the second
          text if the tokenizer distinguishes them}; and, if the prompt is not pooled, "prompt", true for its tokens.

        Raises:
          TypeError: if the argument is not a sequence of strings.
          ValueError: if the number of pairs differs from that of texts, pairs are given to a tokenizer with a prompt, a
            text holds half of a character (a lone surrogate), or the tokenizer's pattern gives up on the texts.
        """
        _check("texts", texts)
        if pairs is None:
            rows = [self.prompt.text + text for text in texts] if self.prompt.text else list(texts)
        elif self.prompt.text:
            raise ValueError(f"pairs with the prompt {self.prompt.text!r}: it is of single texts; give prompt=''")
        else:
            _check("pairs", pairs)
            if len(pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts and {len(pairs)} pairs: give a second text for each first")
            _roomy(self.backend, self.length, True)
            rows = list(zip(texts, pairs, strict=True))
        try:
            found = self.backend.encode_batch_fast(rows)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a panic of Rust, which is not an Exception
                raise
            raise ValueError(f"the tokenizer gave up on these texts: {str(error)[:200]}") from error
        shape = (len(rows), self.length)
        made = {
            "ids": np.array([e.ids for e in found], np.int32).reshape(shape),
            "mask": np.array([e.attention_mask for e in found], bool).reshape(shape),
            "types": self.types(found).reshape(shape),
        }
        if not self.prompt.counted:
            made["prompt"] = self._before(made["mask"])
        return made

    def types(self, found: Sequence[Any]) -> np.ndarray:
        """Returns the types, int32 [texts, length], 1 for the second text; all 0 if `model_input_names` omits them."""
        told = np.array([e.type_ids for e in found], np.int32)
        return told if tokenizers.tells_parts(self.config) else np.zeros_like(told)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Counts the tokens of each text, with special and prompt tokens, before it is cut or padded."""
        _check("texts", texts)
        backend = uncut(self.backend)
        return [len(found.ids) for found in backend.encode_batch_fast([self.prompt.text + text for text in texts])]

    def _before(self, mask: np.ndarray) -> np.ndarray:
        """Marks the tokens of the prompt, and the special ones before it, as sentence-transformers counts them."""
        encoded = uncut(self.backend).encode(self.prompt.text)
        count = len(encoded.ids) - bool(encoded.special_tokens_mask[-1])
        return mask & (np.cumsum(mask, 1) <= count)

    def save(self, directory: str | Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, for transformers and `tokenizer` to read.

        Args:
          directory: created if it does not exist; may be the folder of `jtl.save`, for a whole network.
        """
        folder = local(directory, "directory")
        folder.mkdir(parents=True, exist_ok=True)
        plain = uncut(self.backend)
        (folder / "tokenizer.json").write_text(plain.to_str(pretty=True), encoding="utf-8")
        if self.prompt.text and not (folder / PROMPTS).exists():
            told = {"prompts": {"default": self.prompt.text}, "default_prompt_name": "default"}
            (folder / PROMPTS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def tokenizer(source: str | Path | Vocabulary | None, *, length: int, prompt: str | None = None) -> Tokenizer:
    r"""Loads the tokenizer of a pretrained network.

    Args:
      source: a source as for `jtl.load`: a folder or `hf:org/name`, with a `tokenizer.json`, a `vocab.txt` (WordPiece:
        BERT, DistilBERT, MiniLM) or a `vocab.json` with its `merges.txt` (GPT-2, RoBERTa, CLIP), and optionally a
        `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, which override a tokenizer.json;
        or such a `.json` or `.txt` by itself; or `jtl.load(...).tokenizer`.
      length: tokens per row, special ones included, so that one shape is compiled once.
      prompt: the name of a prompt in a `config_sentence_transformers.json`, such as "query", whose text is put before
        each text; None for the default that the file names, as in `encode` of sentence-transformers; "" for none.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if a file is damaged or lacks a token; if `length` has no room for a token in addition to the special
        ones; or if `source` is None, because the network's weights came without a tokenizer.

    Example:
      >>> import pathlib, tempfile
      >>> from jtl.preprocess import text
      >>> file = pathlib.Path(tempfile.mkdtemp(), "vocab.txt")
      >>> size = file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nan\nant\n##s")
      >>> tokens = text.tokenizer(file, length=6)
      >>> tokens(["an ant"])["ids"].tolist()
      [[2, 5, 6, 3, 0, 0]]
    """
    if source is None:
        raise ValueError("source=None: no tokenizer lay beside the network's weights; give the folder of one")
    path = source.folder if isinstance(source, Vocabulary) else locate(source)
    backend, config = tokenizers.read(path)
    tokenizers.tells_parts(config)  # refuses what is wrong here
    backend.encode_special_tokens = tokenizers.splits_special(config)
    before = read_prompt(path if path.is_dir() else path.parent, prompt)
    _roomy(backend, length, False)
    pad = tokenizers.pad_of(backend, config)
    own = {name: (getattr(backend, name) or {}).get("direction", "right").lower() for name in ("truncation", "padding")}
    sides = {name: config.get(f"{name}_side") or side for name, side in own.items()}
    for name, side in sides.items():
        if side not in ("left", "right"):
            raise ValueError(f"{source}: {name}_side={str(side)[:50]!r}: it is 'left' or 'right'")
    backend.enable_truncation(length, direction=sides["truncation"])
    backend.enable_padding(length=length, pad_id=backend.token_to_id(pad), pad_token=pad, direction=sides["padding"])
    return Tokenizer(backend, length, config, before)


def uncut(backend: Any) -> Any:
    """Returns a copy that neither truncates nor pads.

    Example:
      >>> from tokenizers import Tokenizer, models
      >>> from jtl.preprocess import text
      >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "an": 1}, "[UNK]"))
      >>> words.enable_truncation(2)
      >>> text.uncut(words).truncation is None
      True
    """
    found = type(backend).from_str(backend.to_str())
    found.encode_special_tokens = backend.encode_special_tokens  # which its text does not hold
    found.no_truncation()
    found.no_padding()
    return found


def _roomy(backend: Any, length: int, pair: bool) -> None:
    special = backend.num_special_tokens_to_add(pair)
    if length <= special:
        what = "a pair of texts" if pair else "a text"
        raise ValueError(f"length={length}: {what} has {special} special tokens; give {special + 1} at least")


def _check(name: str, texts: Any) -> None:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise TypeError(f"{name} is a {type(texts).__name__}: give a list of strings")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{row}] is a {type(text).__name__}, not a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}[{row}] holds {text[error.start]!r}, half of a character alone") from None
