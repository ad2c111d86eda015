"""What a run leaves of its settings, and which command may resume it."""

from pathlib import Path

import pytest

from jtl.command.actions import saved
from jtl.command.adapt_settings import AdaptSettings
from jtl.command.settings import Settings, begin, clear, read, refuse_another
from jtl.train import Checkpoints
from jtl.train.checkpoint.claim import NotClaimed


def tuning(folder, weights="a", **options):
    return Settings(Path("photos"), weights, folder, **{"ways": "all", **options})


def killed(settings, stage="."):
    """Leaves what a run has written that was killed after its first checkpoint."""
    saver = Checkpoints(settings.folder / stage / "checkpoints")
    begin(settings, saver, free=("out",))
    saver.path(4).mkdir()
    (saver.path(4) / "manifest.json").write_text("{}")


def test_a_run_that_was_killed_is_resumed_by_its_own_settings_alone(tmp_path):
    """Checkpoints do not say the weights that a run began with, so another's result was saved as this one's."""
    killed(tuning(tmp_path))
    refuse_another(tuning(tmp_path))
    refuse_another(tuning(tmp_path, steps=500))
    for other, told in (
        (tuning(tmp_path, "b"), "weights a -> b"),
        (tuning(tmp_path, "b", seed=1), "weights a -> b, seed 0 -> 1"),
        (tuning(tmp_path, learning_rate=0.1), "learning_rate 2e-05 -> 0.1"),
        (tuning(tmp_path, ways="head"), "ways all -> head"),
    ):
        with pytest.raises(ValueError, match=rf"another run, which is not finished, then -> now: {told}; give --out"):
            refuse_another(other)
        with pytest.raises(ValueError, match=told):
            begin(other, Checkpoints(tmp_path / "checkpoints"))
    with pytest.raises(ValueError, match="holds a run of another command"):
        refuse_another(AdaptSettings(Path("day"), Path("night"), "a", "mcc", tmp_path))
    assert read(tmp_path) is None
    with pytest.raises(ValueError, match="it was not finished"):
        saved(tmp_path)


def test_fewer_steps_are_refused_by_their_number(tmp_path):
    """The checkpoints' own refusal names the schedule's boundaries, which no user of the command has set."""
    killed(tuning(tmp_path, steps=40))
    refuse_another(tuning(tmp_path, steps=40))
    refuse_another(tuning(tmp_path, steps=50))
    with pytest.raises(ValueError, match="then -> now: steps 40 -> 30, and only more are allowed; give --out"):
        refuse_another(tuning(tmp_path, steps=30))


def test_the_source_of_an_adaptation_is_resumed_alike(tmp_path):
    def adapting(**options):
        return AdaptSettings(Path("day"), Path("night"), "a", "shot", tmp_path, **options)

    killed(adapting(), "source")
    refuse_another(adapting(), free=("out",))
    with pytest.raises(ValueError, match="steps None -> 9"):
        refuse_another(adapting(steps=9), free=("out",))


def test_a_run_that_left_no_checkpoint_is_in_nobodys_way_and_its_files_are_not_the_next_ones(tmp_path):
    """As one whose loss was NaN at once, or that was killed; there is nothing to resume from."""
    names = ("settings.json", "metrics.jsonl", "source/metrics.jsonl", "checkpoints/config.json")
    places = [tmp_path / name for name in names]

    def left():
        begin(tuning(tmp_path, learning_rate=10.0), Checkpoints(tmp_path / "checkpoints"))
        for place in places[1:]:
            place.parent.mkdir(exist_ok=True)
            place.write_text("{}")

    left()
    refuse_another(tuning(tmp_path))
    begin(tuning(tmp_path), Checkpoints(tmp_path / "checkpoints"))
    assert [place.exists() for place in places] == [True, False, False, False]
    assert '"learning_rate": 2e-05' in places[0].read_text()
    left()
    clear(tmp_path)  # as a head alone, which has neither
    assert not any(place.exists() for place in places)
    left()
    with Checkpoints(tmp_path / "checkpoints").claimed(), pytest.raises(NotClaimed, match="wait for it"):
        clear(tmp_path)  # the other run is not killed
    assert all(place.exists() for place in places)


def test_what_another_run_resumes_from_is_kept(tmp_path):
    killed(tuning(tmp_path))
    (tmp_path / "metrics.jsonl").write_text("{}")
    begin(tuning(tmp_path), Checkpoints(tmp_path / "checkpoints"))
    clear(tmp_path / "absent")
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_users_own_settings_are_no_runs(tmp_path):
    """As an editor's: they would be removed, or replaced by the run's."""
    (tmp_path / "settings.json").write_text('{"editor": 1}')
    for ways in ("head", "all"):
        with pytest.raises(ValueError, match=r"settings\.json' is not as a run of jtl writes it: it has no settings"):
            refuse_another(tuning(tmp_path, ways=ways))
