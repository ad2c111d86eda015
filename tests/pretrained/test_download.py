"""`jtl.load("hf:...")` from a Hub on this machine: what arrives, what is asked for, what goes wrong."""

import json
import shutil
from pathlib import Path

import jax
import made
import numpy as np
import pytest
from huggingface_hub import constants, hf_hub_download
from safetensors.numpy import load_file, save_file

from jtl.pretrained.load import load
from jtl.weights.formats.hub import locate

REPO = "org/tiny-vit"


@pytest.fixture
def vit(hub, tmp_path):
    """A repository with a network, and the same in a folder."""
    folder = made.folder(tmp_path / "vit", made.VIT)
    (folder / "processor_config.json").write_text('{"image_processor": {"size": 8}}')
    hub.commit(REPO, {**made.files(folder), "README.md": b"# A card", "model.fp16.safetensors": bytes(1000)})
    return folder


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)


def test_a_download_then_the_cache_without_a_request(hub, vit, monkeypatch):
    equal(load(f"hf:{REPO}"), load(vit))
    assert load(f"hf:{REPO}").preprocessing[0] == (8, 8)
    fetched = {r.rpartition("/")[2] for r in hub.requests if "/resolve/" in r}
    assert fetched == {"config.json", "processor_config.json", "model.safetensors"}  # nothing that is not needed
    hub.requests.clear()
    sha = hub.repos[REPO][-1].sha
    for source in (f"hf:{REPO}", f"hf:{REPO}@{sha}"):
        equal(load(source), load(vit))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    equal(load(f"hf:{REPO}"), load(vit))
    assert hub.requests == []


def test_a_revision_is_another_network(hub, vit, tmp_path):
    first = hub.repos[REPO][-1].sha
    newer = made.folder(tmp_path / "newer", made.VIT, seed=1)
    hub.commit(REPO, made.files(newer))
    equal(load(f"hf:{REPO}@{first}"), load(vit))
    equal(load(f"hf:{REPO}"), load(newer))


def test_names_of_timm_are_repositories_of_its_organisation(hub, tmp_path):
    folder = made.folder(tmp_path / "timm", made.VIT, "timm")
    hub.commit("timm/tiny.a1", made.files(folder))
    equal(load("timm:tiny.a1"), load(folder))


def test_an_interrupted_file_is_resumed(hub, vit):
    """The client asks for the rest, not for the whole again."""
    hub.cut["model.safetensors"] = 1000
    equal(load(f"hf:{REPO}"), load(vit))
    assert sum(r.startswith("GET") and r.endswith("model.safetensors") for r in hub.requests) == 2


def test_an_interrupted_download_names_the_repository_and_can_be_tried_again(hub, vit):
    for name in ("config.json", "model.safetensors"):
        hub.broken = {name}
        with pytest.raises(ConnectionError, match=rf"{REPO} at revision .* could not be downloaded"):
            load(f"hf:{REPO}")
    hub.broken = set()
    equal(load(f"hf:{REPO}"), load(vit))


def test_shards_that_are_missing_from_the_cache_are_fetched(hub, vit):
    """A download that ended between two shards has left an index: it alone is no network."""
    held = load_file(vit / "model.safetensors")
    parts = {f"model-0000{i}-of-00002.safetensors": dict(list(held.items())[i - 1 :: 2]) for i in (1, 2)}
    files = {"config.json": (vit / "config.json").read_bytes()}
    for name, part in parts.items():
        save_file(part, vit / name)
        files[name] = (vit / name).read_bytes()
    where = {tensor: name for name, part in parts.items() for tensor in part}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    hub.commit("org/sharded", files | {"pytorch_model.bin": b"older"})
    hub.broken = {"model-00002-of-00002.safetensors"}
    with pytest.raises(ConnectionError, match="org/sharded"):
        load("hf:org/sharded")
    hub.broken = set()
    hf_hub_download("org/sharded", "pytorch_model.bin")  # whole, but what is read is the index
    equal(load("hf:org/sharded"), load(vit / "model.safetensors", arch=made.VIT))


def test_weights_of_pytorch_serve_where_there_are_no_others(hub, tmp_path, vit):
    files = made.files(vit)
    hub.commit("org/old", {"config.json": files["config.json"], "pytorch_model.bin": files["model.safetensors"]})
    equal(load("hf:org/old"), load(vit))


def test_the_files_of_open_clip_serve_where_there_are_no_others(hub, tmp_path, vit):
    weights = (vit / "model.safetensors").read_bytes()
    hub.commit("org/open", {"open_clip_config.json": b"{}", "open_clip_model.safetensors": weights})
    folder = locate("hf:org/open")
    assert sorted(path.name for path in folder.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    equal(load(folder, arch=made.VIT), load(vit))


def test_weights_that_another_library_cached_get_their_config(hub, vit):
    """timm asks for the weights of a network that it knows, and for nothing beside them."""
    hf_hub_download(REPO, "model.safetensors")
    hub.requests.clear()
    equal(load(f"hf:{REPO}", arch=made.VIT), load(vit))
    assert hub.requests == []  # nothing is needed
    assert load(f"hf:{REPO}").preprocessing == load(vit).preprocessing
    assert not any(r.endswith(".safetensors") for r in hub.requests)
    hub.requests.clear()
    equal(load(f"hf:{REPO}"), load(vit))
    assert hub.requests == []


def test_a_name_without_an_organisation_is_one_of_the_first_models(hub, vit):
    """Caches hold gpt2 and bert-base-uncased by these names."""
    folder = Path(constants.HF_HUB_CACHE) / "models--vit"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    shutil.copytree(vit, folder / "snapshots" / ("a" * 40))
    equal(load("hf:vit"), load(vit))
    assert hub.requests == []


def test_what_is_not_there_is_named(hub, vit):
    with pytest.raises(FileNotFoundError, match="org/absent is not on the Hub, or it is private"):
        load("hf:org/absent")
    with pytest.raises(FileNotFoundError, match=f"{REPO} has no revision 'v9' on the Hub"):
        load(f"hf:{REPO}@v9")
    hub.commit("org/empty", {"README.md": b"# nothing"})
    with pytest.raises(FileNotFoundError, match=r"'main' holds none of model\.safetensors, .*, but no weights$"):
        locate("hf:org/empty")
    hub.commit("org/other", {"net.pth": b"", "model.fp16.safetensors": b""})
    with pytest.raises(FileNotFoundError, match=r", but 'net\.pth', 'model\.fp16\.safetensors'$"):
        locate("hf:org/other")


@pytest.mark.parametrize("before", [False, True], ids=["never", "no longer"])
def test_a_hub_that_is_not_there(hub, vit, before, monkeypatch):
    """Also where a part was downloaded before: the Hub's client then gives what the cache has, without a word."""
    if before:
        hf_hub_download(REPO, "config.json")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=f"{REPO} at revision 'main' could not be downloaded"):
        load(f"hf:{REPO}")
