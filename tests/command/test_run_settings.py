"""What the settings of all runs check, and how JSON has them."""

import json
from pathlib import Path

import pytest

from jtl.command.adapt_settings import AdaptSettings
from jtl.command.few_settings import FewShot
from jtl.command.run_settings import one_column
from jtl.command.settings import Settings

MADE = {
    "finetune": lambda **given: Settings(Path("photos"), "w", **{"ways": "all", **given}),
    "adapt": lambda **given: AdaptSettings(Path("day"), Path("night"), "w", "mcc", **given),
    "adapt-few": lambda **given: FewShot("w", Path("photos"), ("a.png", "b.png"), **given),
}


@pytest.mark.parametrize("command", MADE)
def test_all_runs_refuse_the_same(command):
    for given, told in (
        ({"out": Path("gs://bucket/run")}, "--out"),
        ({"text": "who", "file": "file"}, "text='who' and file='file': the examples of a table are texts or files"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: give a number above zero"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
    ):
        with pytest.raises(ValueError, match=told):
            MADE[command](**given)
    MADE[command](file="file")


@pytest.mark.parametrize("command", MADE)
def test_settings_are_equal_to_what_json_reads_back(command):
    """As `refuse_another` compares them."""
    found = MADE[command]().as_json()
    assert json.loads(json.dumps(found)) == found


def test_a_column_of_texts_or_of_files_is_taken():
    one_column("review", None)
    one_column(None, "file")
    with pytest.raises(ValueError, match="--text 'review' and --file 'file'"):
        one_column("review", "file")
