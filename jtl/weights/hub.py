"""Where a checkpoint's files lie: a path, or a repository of the Hugging Face Hub by its local cache first."""

import re
from pathlib import Path

from jtl.weights.read import NAMES

_SMALL = ("config.json", "preprocessor_config.json")


def locate(source: str | Path) -> Path:
    """The file or folder that `source` names.

    Args:
      source: a path; `hf:org/name` or `hf:org/name@revision`; `timm:name`, short for `hf:timm/name`.

    Returns:
      The path. Of the Hub it is a folder of its cache; what is not there is downloaded, unless
      `HF_HUB_OFFLINE` is set. A repository that is in the cache is never looked up again.

    Raises:
      FileNotFoundError: nothing is there, or it is not in the cache and the Hub is offline.
      ValueError: for a name that is no repository's.
    """
    text = str(source)
    found = re.fullmatch(r"(hf|timm):(.*)", text, re.DOTALL)
    if not found:
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give a path, or 'hf:org/name' for a model of the Hub")
        return path
    name, _, revision = found[2].partition("@")
    repo = f"timm/{name}" if found[1] == "timm" else name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII) or ".." in repo:
        raise ValueError(f"{text!r} names no repository of the Hub; write 'hf:org/name', 'hf:org/name@revision'")
    return _repository(repo, revision or "main")


def _repository(repo: str, revision: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    folder = _cached(repo, revision)
    if folder is not None:
        return folder
    if constants.is_offline_mode():
        raise FileNotFoundError(
            f"{repo} at revision {revision!r} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; "
            "download it where there is a network, or give the path of its files"
        )
    # Many repositories hold the same weights in several formats; the first that is there will do.
    for patterns in (["model.safetensors", "model*.safetensors*"], ["pytorch_model*.bin*"]):
        snapshot_download(repo, revision=revision, allow_patterns=[*_SMALL, *patterns])
        folder = _cached(repo, revision)
        if folder is not None:
            return folder
    raise FileNotFoundError(f"{repo} at revision {revision!r} holds none of {', '.join(NAMES)}")


def _cached(repo: str, revision: str) -> Path | None:
    """The folder of the cache that holds the weights."""
    from huggingface_hub import try_to_load_from_cache

    for name in NAMES:
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None
