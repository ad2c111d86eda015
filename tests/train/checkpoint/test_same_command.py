"""A run is resumed by the same command, however its words are quoted, and refused by another."""

import shlex

import pytest
from least_squares import Data, begun, train

import jtl
from jtl.train.checkpoint.commands import beginning, same_command


@pytest.mark.parametrize(
    ("old", "words", "same"),
    [
        ("jtl finetune my photos", ["finetune", "my photos"], True),  # before commands were quoted
        ("jtl finetune 'my photos'", ["finetune", "my photos"], True),
        ("jtl finetune 'my photos'", ["finetune", "my sounds"], False),
        ("jtl finetune my photos", ["finetune", "my sounds"], False),
        ("jtl finetune Ann's photos", ["finetune", "Ann's photos"], True),
        ("jtl finetune Ann's photos", ["finetune", "Ben's photos"], False),
        ("jtl adapt my photos night", ["adapt", "my photos", "night"], True),
        ("jtl train digits --seed 1", ["train", "digits", "--seed", "2"], True),
    ],
)
def test_words_are_compared_as_a_shell_reads_them(old, words, same):
    assert same_command(old, shlex.join(["jtl", *words])) is same


def test_a_text_that_is_no_command_is_shown_by_its_words():
    assert beginning("Ann's own run again") == shlex.join(["Ann's", "own", "run"])


def test_a_run_of_a_path_with_a_space_resumes_and_another_is_refused(tmp_path):
    def run(recipe, steps):
        return train(*begun(), Data(), steps=steps, checkpoints=jtl.Checkpoints(tmp_path, recipe=recipe))

    run("jtl finetune my photos", 2)
    run("jtl finetune 'my photos'", 4)
    with pytest.raises(ValueError, match="jtl finetune 'my photos' -> jtl finetune 'my sounds'"):
        run("jtl finetune 'my sounds'", 6)
