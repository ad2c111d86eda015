"""Uploads weights to the Hugging Face Hub; nothing else in jtl sends data anywhere."""

from pathlib import Path

from jtl.paths import local
from jtl.weights.formats.errors import show
from jtl.weights.formats.hub import is_repository
from jtl.weights.formats.read import NAMES, read

PARTIAL = [".partial-*"]
"""What a save leaves that was killed."""


def push(
    repo: str,
    folder: str | Path,
    *,
    private: bool | None = None,
    message: str = "Weights and their config",
) -> str:
    """Uploads a folder that `jtl.save` wrote to a repository of the Hub, created if it does not exist.

    The Hub checks who may write: log in by `hf auth login`, or set a token in `HF_TOKEN`.

    Args:
      repo: `org/name`.
      folder: with weights in it; all of its files go up, but what a killed save left, and replace those of the same
        names.
      private: whether a repository that is made now is seen by its owner alone; None leaves it to the Hub.
      message: of the commit.

    Returns:
      The address of the commit.

    Raises:
      ValueError: for a name that is no repository's, or an empty message.
      FileNotFoundError: the folder is absent, or holds no weights by the names that are looked for on the Hub.
      WeightFileError: what it holds would not be read back.
      ConnectionError: `HF_HUB_OFFLINE` is set, or the Hub refused, or it was not reached.

    Example:
      >>> import jtl
      >>> jtl.push("me/ants", "runs/ants")  # doctest: +SKIP
      >>> jtl.push("my ants", "runs/ants")
      Traceback (most recent call last):
        ...
      ValueError: repo='my ants' names no repository of the Hub; write 'org/name'
    """
    from huggingface_hub import HfApi, constants

    folder = local(folder, "folder")
    if not is_repository(repo):
        raise ValueError(f"repo={show(repo)} names no repository of the Hub; write 'org/name'")
    if not message.strip():
        raise ValueError("message: a commit needs one")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give the one that jtl.save wrote")
    read(folder)  # headers alone
    if not any((folder / name).exists() for name in NAMES):
        raise FileNotFoundError(
            f"{folder} holds none of {', '.join(NAMES)}, which jtl.load takes from the Hub; jtl.save writes one"
        )
    if constants.is_offline_mode():
        raise ConnectionError(f"{folder} cannot be pushed to {repo}: HF_HUB_OFFLINE is set")
    hub = HfApi(library_name="jtl")
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        commit = hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=PARTIAL)
    except Exception as error:  # the HTTP library below, whose errors have no base but this, changes with versions
        raise ConnectionError(f"{folder} was not pushed to {repo}: {type(error).__name__}: {error}") from error
    return str(commit.commit_url)
