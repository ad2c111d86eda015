"""`jtl.push` to a Hub on this machine."""

import shutil

import jax
import made
import numpy as np
import pytest

from jtl.pretrained.load import load
from jtl.pretrained.push import push
from jtl.weights import WeightFileError

# huggingface_hub's own call, of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def vit(tmp_path):
    return made.folder(tmp_path / "vit", made.VIT)


def test_what_is_pushed_is_loaded(hub, vit):
    (vit / "README.md").write_text("---\nlibrary_name: jtl\n---\n# A card\n")
    files = made.files(vit)
    (vit / ".partial-x").mkdir()
    (vit / ".partial-x" / "model.safetensors").write_bytes(b"of a save that was killed")
    address = push("me/ants", vit, message="ants, first try")
    commit = hub.repos["me/ants"][-1]
    assert address == f"{hub.url}/me/ants/commit/{commit.sha}"
    assert commit.message == "ants, first try"
    assert commit.files == files
    jax.tree.map(np.testing.assert_array_equal, load("hf:me/ants").variables, load(vit).variables)


def test_a_second_push_is_a_second_commit(hub, vit, tmp_path):
    push("me/ants", vit, private=True)
    assert hub.private["me/ants"] in (True, "private")
    newer = made.folder(tmp_path / "newer", made.VIT, seed=1)
    push("me/ants", newer)
    assert [c.files for c in hub.repos["me/ants"]] == [made.files(vit), made.files(newer)]


def test_nothing_is_sent_where_it_cannot_work(hub, vit, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"repo='ants' names no repository of the Hub; write 'org/name'"):
        push("ants", vit)
    with pytest.raises(ValueError, match="a commit needs"):
        push("me/ants", vit, message=" ")
    with pytest.raises(FileNotFoundError, match="absent is no folder"):
        push("me/ants", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        push("me/ants", tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightFileError):
        push("me/ants", tmp_path / "empty")
    (tmp_path / "other").mkdir()
    shutil.copy(vit / "model.safetensors", tmp_path / "other" / "best.safetensors")
    with pytest.raises(FileNotFoundError, match=r"other holds none of model\.safetensors, .* takes from the Hub"):
        push("me/ants", tmp_path / "other")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="cannot be pushed to me/ants: HF_HUB_OFFLINE is set"):
        push("me/ants", vit)
    assert hub.requests == []


def test_a_refusal_names_the_repository(hub, vit, monkeypatch):
    hub.token = "right"
    with pytest.raises(ConnectionError, match=r"was not pushed to me/ants: .*401"):
        push("me/ants", vit)
    monkeypatch.setenv("HF_TOKEN", "right")
    push("me/ants", vit)
    assert set(hub.repos["me/ants"][-1].files) == {"config.json", "model.safetensors"}
