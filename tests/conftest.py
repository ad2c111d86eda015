"""Eight CPU devices, strict ranks, shapes checked by beartype, and where the real data lies."""

import gc
import os
import sys
from collections import defaultdict
from pathlib import Path
from zlib import crc32

ROOT = Path(__file__).resolve().parents[1]
os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # theirs wait busily, and workers fill the cores
    os.environ.setdefault(threads, "1")
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from jaxtyping import install_import_hook

if not os.environ.get("JTL_UNCHECKED"):  # CI sets it for the oldest versions: it checks with the newest
    install_import_hook("jtl", "checked.check")  # before the first import of jtl

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(200_000, 50, 1000)  # traces make many objects: by default a tenth of the time is spent looking at them


def data_root() -> Path:
    """The folder of real data: `JTL_DATA`, or `../shared/data` beside the repository."""
    return Path(os.environ.get("JTL_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data():
    """`real_data("usps.npz")` is the path of that file; the test skips where it is absent (where CI fails)."""

    def find(name: str) -> Path:
        path = data_root() / name
        if not path.exists():
            message = f"real data {name!r} not found under {data_root()}; set JTL_DATA to the folder that holds it"
            pytest.skip(message)
        return path

    return find


@pytest.hookimpl(trylast=True)  # after the marks have chosen
def pytest_collection_modifyitems(config, items):
    """The longest first: none is left for the end, where one worker would run it and the others wait.

    With `JTL_CASES=n`, n cases of a parametrised test run and the others do not, other ones of each test. CI sets it
    for the newest versions, because the oldest run all cases: what a new version breaks is seldom one family's alone.
    """
    if most := int(os.environ.get("JTL_CASES", 0)):
        cases = defaultdict(list)
        for item in items:
            cases[item.nodeid.split("[")[0]].append(item.nodeid)
        kept = {
            name for names in cases.values() for name in sorted(names, key=lambda name: crc32(name.encode()))[:most]
        }
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
        items[:] = [item for item in items if item.nodeid in kept]
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seeds torch, where a test has imported it: weights that PEFT or torch draw are the same in any order of tests."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With `JTL_NO_SKIPS` set, as CI does on the full environment, a test that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("JTL_NO_SKIPS"):
        report.outcome = "failed"
    return report


@pytest.fixture
def key():
    """A root key, the same in every test."""
    return jax.random.key(0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model hub on this machine, and a cache of its own."""
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
