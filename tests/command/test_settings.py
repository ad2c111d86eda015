"""What a run leaves of its settings, and which command may resume it."""

from pathlib import Path

import pytest

from jtl.command.actions import saved
from jtl.command.adapt_settings import AdaptSettings
from jtl.command.settings import Settings, begin, read, refuse_another
from jtl.train import Checkpoints


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


def test_a_run_that_left_no_checkpoint_is_in_nobodys_way(tmp_path):
    """As one whose loss was NaN at once; there is nothing to resume from."""
    begin(tuning(tmp_path, learning_rate=10.0), Checkpoints(tmp_path / "checkpoints"))
    refuse_another(tuning(tmp_path))
