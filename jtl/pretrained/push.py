"""Uploads weights to the Hugging Face Hub; nothing else in jtl sends data anywhere."""

from pathlib import Path

from jtl.paths import local
from jtl.weights.formats.errors import show
from jtl.weights.formats.hub import is_repository
from jtl.weights.formats.read import NAMES, read

PARTIAL = [".partial-*"]
"""The temporary files that a killed save leaves behind."""


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
      folder: a folder with weights. All of its files, except leftovers of a killed save, are uploaded, and replace
        those of the same names.
      private: whether a newly created repository is private; None leaves it to the Hub's default.
      message: the commit message.

    Returns:
      The URL of the commit.

    Raises:
      ValueError: for an invalid name of a repository, or an empty message.
      FileNotFoundError: if the folder does not exist, or holds no weights under a name that is looked for on the Hub.
      WeightFileError: if the weights could not be read back.
      ConnectionError: if `HF_HUB_OFFLINE` is set, or the Hub refuses or cannot be reached.

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
    read(folder)  # only headers
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
    except Exception as error:  # the HTTP library below varies with versions, and its errors share no other base
        raise ConnectionError(f"{folder} was not pushed to {repo}: {type(error).__name__}: {error}") from error
    return str(commit.commit_url)
