"""Where runs write, and that it is not among the examples."""

from pathlib import Path

import pytest

from jtl.command.adapt_settings import AdaptSettings
from jtl.command.few_settings import FewShot
from jtl.command.folders import stem
from jtl.command.settings import Settings, refuse_another


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of class folders, which is the working directory."""
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    return tmp_path / "photos"


def test_a_run_is_called_as_the_folder_that_is_meant(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    for given in (".", "../photos", "ant/..", photos, "~"):
        assert Settings(Path(given), "w").folder == Path("runs/photos")
        assert FewShot("w", Path(given)).folder == Path("runs/photos-few")
    assert AdaptSettings(Path("."), Path("ant"), "w", "mcc").folder == Path("runs/photos-ant-mcc")
    monkeypatch.chdir("ant")
    assert Settings(Path(".."), "w").folder == Path("runs/photos")
    assert stem(Path("/")) == "data"


def test_a_run_among_the_examples_is_refused(photos, monkeypatch):
    """The next command took `runs` for a class."""
    outside = rf"lies among the examples of '.*': give --out a folder outside, as '{photos.parent}/runs/photos'"
    outside = outside.replace(": give", ", where it would be taken for a class: give")
    here, elsewhere = Path("."), photos.parent / "night"
    elsewhere.mkdir()
    for settings in (
        Settings(here, "w"),
        Settings(photos, "w", Path("sweep/seed=0")),
        Settings(photos, "w", photos),
        FewShot("w", here),
        AdaptSettings(here, elsewhere, "w", "mcc"),
        AdaptSettings(elsewhere, here, "w", "mcc"),
    ):
        with pytest.raises(ValueError, match=outside):
            refuse_another(settings)
    refuse_another(Settings(elsewhere, "w"))
    for out in ("../runs", ".runs"):
        refuse_another(Settings(here, "w", Path(out)))
    monkeypatch.chdir("ant")
    with pytest.raises(ValueError, match=r"'runs/photos' lies among the examples of '\.\.'"):
        refuse_another(Settings(Path(".."), "w"))


def test_a_run_may_lie_beside_the_parts_of_split_data(photos):
    for name in ("ant", "bee"):
        (photos / name).rename(photos / {"ant": "train", "bee": "valid"}[name])
    refuse_another(Settings(Path("."), "w"))
    with pytest.raises(ValueError, match="lies among the examples"):
        refuse_another(Settings(Path("."), "w", Path("valid/run")))
