"""A Hub on this machine, and a cache of its own."""

import pytest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from hub_server import Hub
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    hub = Hub()
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "DOWNLOAD_CHUNK_SIZE": 512,  # bytes: what arrived of a small file is kept too
        "HF_HUB_DISABLE_XET": True,  # a protocol of its own, by a library of its own
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    close_session()  # so that the next one reads the environment
    yield hub
    close_session()
    hub.close()
