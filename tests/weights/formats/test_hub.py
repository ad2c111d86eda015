"""A cache as huggingface_hub lays it out; a connection of any kind fails the test."""

import socket

import jax
import numpy as np
import pytest

from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from torch_references import hf_vit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    repo = tmp_path / "models--org--tiny-vit"
    snapshot = repo / "snapshots" / ("a" * 40)
    hf_vit().save_pretrained(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return snapshot


def test_the_cache_comes_first(cache):
    loaded, direct = load("hf:org/tiny-vit"), load(cache)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, direct.variables)
    assert load(f"hf:org/tiny-vit@{'a' * 40}").naming == "transformers"


def test_offline_says_so(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("hf:org/tiny-vit").config.model_type == "vit"
    for source, name in (("hf:org/other", "org/other"), ("timm:resnet50.a1_in1k", "timm/resnet50.a1_in1k")):
        with pytest.raises(FileNotFoundError, match=f"{name} at revision 'main' is not in the cache"):
            load(source)
    with pytest.raises(FileNotFoundError, match="revision 'v2' is not in the cache"):
        load("hf:org/tiny-vit@v2")


@pytest.mark.parametrize("name", ["hf:", "hf:..", "hf:../../etc/passwd", "hf:a/..", "hf:org/name\nx", "timm:a/b"])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="names no repository of the Hub"):
        load(name)
