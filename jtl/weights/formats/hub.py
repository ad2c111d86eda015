"""Locates weights: at a path, or in a repository of the Hugging Face Hub, whose local cache comes first."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from jtl.paths import local
from jtl.weights.formats.errors import WeightFileError, show
from jtl.weights.formats.read import NAMES, SUFFIXES
from jtl.weights.formats.sharded_index import names_of

OPEN_CLIP_FILE = "open_clip_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)
"""The names of transformers' files; a `spiece.model` is only copied, `jtl.preprocess.text` does not read it."""
# The files next to the weights: configuration, preprocessing, tokenizer.
BESIDE = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    OPEN_CLIP_FILE,
    *TOKENIZER_FILES,
)
ADAPTER = "adapter_config.json"  # of PEFT
PROMPTS = "config_sentence_transformers.json"
SENTENCES = ("modules.json", "sentence_bert_config.json", PROMPTS, "[0-9]_*/config.json")  # of sentence-transformers


def locate(source: str | Path, needs: Sequence[str] = ()) -> Path:
    """Returns the path of the file or folder that `source` names.

    Args:
      source: a path; `hf:org/name` or `hf:org/name@revision`, or `hf:name` for the Hub's first models, such as
        `hf:gpt2`; `timm:name`, short for `hf:timm/name`.
      needs: files of which at least one is needed to use the weights, such as their config.

    Returns:
      The path. For the Hub it is a folder in its cache; missing files are downloaded, unless `HF_HUB_OFFLINE` is set.
      Once the weights of a repository and the files they need are in the cache, it is never looked up again.

    Raises:
      FileNotFoundError: the path does not exist, or it is not in the cache and the Hub is offline.
      ConnectionError: the download failed; files that arrived complete are kept for the next attempt.
      ValueError: for an invalid repository name.
    """
    text = str(source)
    if not text.strip():
        raise ValueError(f"source={text!r}: give a path, 'hf:org/name' or 'timm:name'")
    found = re.fullmatch(r"(hf|timm):(.*)", text, re.DOTALL)
    if not found:
        path = local(source, "source")
        if not path.exists():
            meant = f"'hf:{text}'" if is_repository(text) else "'hf:org/name' or 'timm:name'"
            raise FileNotFoundError(f"{path} does not exist; give a path, or {meant} for a model of the Hub")
        return path
    name, _, revision = found[2].partition("@")
    repo = f"timm/{name}" if found[1] == "timm" else name
    if not is_repository(repo, owned=False):
        raise ValueError(f"{text!r} names no repository of the Hub; write 'hf:org/name', 'hf:org/name@revision'")
    return _repository(repo, revision or "main", needs)


def is_repository(name: str, *, owned: bool = True) -> bool:
    """Whether `name` can name a repository: `organisation/model`, or `model` alone too unless it must be `owned`."""
    owner = r"[\w.-]+/" if owned else r"(?:[\w.-]+/)?"
    return re.fullmatch(owner + r"[\w.-]+", name, re.ASCII) is not None and ".." not in name


def _repository(repo: str, revision: str, needs: Sequence[str]) -> Path:
    from huggingface_hub import constants

    folder = _cached(repo, revision)
    if folder is not None:
        # Another library that put the weights there downloaded only the files that it reads itself.
        alone = bool(needs) and not any((folder / name).exists() for name in needs)
        if alone and not constants.is_offline_mode() and set(needs) & set(_held(repo, folder.name)):
            _download(repo, folder.name, (*BESIDE, *SENTENCES))
        return folder
    if constants.is_offline_mode():
        raise FileNotFoundError(
            f"{repo} at revision {revision!r} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; "
            "download it where there is a network, or give the path of its files"
        )
    held = _held(repo, revision)
    weights = next((name for name in NAMES if name in held), None)
    if weights is None:
        if ADAPTER in held:
            raise FileNotFoundError(
                f"{repo} holds a PEFT adapter and no network: download it, and give jtl.peft.load its folder"
            )
        others = ", ".join(show(name) for name in held if name.endswith(SUFFIXES)) or "no weights"
        raise FileNotFoundError(f"{repo} at revision {revision!r} holds none of {', '.join(NAMES)}, but {others}")
    # Weights come last: once they are in the cache, so are all files that belong to them.
    commit = _download(repo, revision, (*BESIDE, *SENTENCES)).name
    folder = _download(repo, commit, (weights,))
    if weights.endswith(".index.json"):
        _download(repo, commit, [escape(name) for name in names_of(folder / weights)])
    return folder


def _held(repo: str, revision: str) -> list[str]:
    """The names of a repository's files. It also shows whether the Hub answers, which a download does not report."""
    from huggingface_hub import HfApi

    with _told(repo, revision):
        return [file.rfilename for file in HfApi().model_info(repo, revision=revision).siblings or ()]


def _download(repo: str, revision: str, patterns: Sequence[str]) -> Path:
    """Downloads files and returns their folder in the cache, whose name is the commit."""
    from huggingface_hub import snapshot_download

    with _told(repo, revision):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def _told(repo: str, revision: str) -> Iterator[None]:
    """Turns errors of the Hub into messages that name the repository."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo} has no revision {revision!r} on the Hub") from error
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"{repo} is gated: accept its terms on its page and log in (`hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} is not on the Hub, or it is private: check its name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # the HTTP library varies with the version, and its errors have no other common base
        raise ConnectionError(
            f"{repo} at revision {revision!r} could not be downloaded: {type(error).__name__}: {error}"
        ) from error


def _cached(repo: str, revision: str) -> Path | None:
    """The folder of the cache if it holds all weights; of several formats, those that `read` would take."""
    from huggingface_hub import try_to_load_from_cache

    for name in NAMES:
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent if _whole(Path(path)) else None
    return None


def _whole(path: Path) -> bool:
    """Whether all files of an index are there: a download may have been interrupted between them."""
    if not path.name.endswith(".index.json"):
        return True
    try:
        return all((path.parent / shard).exists() for shard in names_of(path))
    except WeightFileError:
        return True  # `read` says what is wrong with it
