"""What the commands call their arguments, and what they say of those that are wrong."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.command import actions, adapt, adapt_report, few, few_report, report, tune
from jtl.command.adapt_settings import AdaptSettings, Method
from jtl.command.few_settings import FewShot
from jtl.command.settings import Settings


@pytest.fixture
def photos(tmp_path):
    for k, name in enumerate(("ants", "bees")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng((k, i)).integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def said(words, capsys):
    """What a command that fails prints, in one line."""
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    return " ".join(re.sub("[│╭╮╰╯─]", " ", printed.out + printed.err).split())


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "nowhere", "photos"],
        ["eval", "nowhere"],
        ["export", "nowhere"],
        ["predict", "nowhere", "x"],
        ["predict", "nowhere", "x", "--csv", "p.csv"],
        ["finetune", "{photos}", "--weights", "nowhere"],
        ["adapt", "{photos}", "{photos}/ants", "--weights", "nowhere", "--method", "mcc"],
        ["adapt-few", "nowhere", "--support", "{photos}"],
        ["rank", "{photos}", "nowhere"],
        ["features", "{photos}", "--weights", "nowhere"],
        ["inspect", "nowhere"],
    ],
)
def test_a_run_or_weights_that_are_not_there_are_told_first(words, photos, capsys, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert re.search(r"'?nowhere'? does not exist", said([word.format(photos=photos) for word in words], capsys))


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("eval", r"RUN \[DATA\]"),
        ("predict", r"RUN \[INPUT \.\.\.\]"),
        ("adapt", "SOURCE TARGET"),
        ("finetune", "DATA"),
        ("adapt-few", "WEIGHTS"),
        ("rank", r"DATA \[WEIGHTS \.\.\.\]"),
        ("features", r"\[INPUT \.\.\.\]"),
        ("export", r"RUN \[OUT\]"),
    ],
)
def test_help_names_what_is_given_by_its_place(command, line, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^usage: jtl {command} .*\] {line}(?= \[--|$)", shown, re.MULTILINE)


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_help_begins_with_the_folder_of_a_run_of_finetune(command, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "RUN the folder of a run of `jtl finetune`, `jtl adapt` or `jtl adapt-few`, as runs/photos" in shown


def test_a_misspelt_option_is_answered_by_the_same_commands_options(capsys):
    shown = said(["finetune", "photos", "--weights", "w", "--wayz", "all"], capsys)
    assert "Perhaps you meant: --ways {head,last,all}" in shown
    assert "jtl finetune --help" in shown
    assert "jtl adapt" not in shown
    assert shown.count("--help") == 1


RUN = Path("out dir/it's ü")


@pytest.mark.parametrize(
    ("command", "settings", "modules"),
    [
        (actions.finetune, Settings(Path("data"), "w", RUN), (tune, report)),
        (actions.adapt, AdaptSettings(Path("day"), Path("night"), "w", "mcc", RUN), (adapt, adapt_report)),
        (actions.adapt_few, FewShot("w", Path("data"), out=RUN), (few, few_report)),
    ],
)
def test_the_command_that_follows_is_quoted_for_a_shell(command, settings, modules, monkeypatch, capsys):
    """So that it can be copied."""
    monkeypatch.setattr(modules[0], "run", lambda _: SimpleNamespace(notes=[], target=None, right=np.zeros(0)))
    monkeypatch.setattr(modules[1], "write", lambda *_: "report.html")
    command(settings)
    follows = capsys.readouterr().out.splitlines()[-1].removeprefix("predict: ")
    assert shlex.split(follows)[:3] == ["jtl", "predict", str(RUN)]


@pytest.mark.parametrize("suffix", [".png", ".wav"])
def test_a_folder_of_one_class_is_told_in_the_commands_words(suffix, photos, capsys, monkeypatch):
    monkeypatch.chdir(photos.parent)
    for file in (photos / "ants").iterdir():
        file.rename(file.with_suffix(suffix))
    shown = said(["finetune", str(photos / "ants"), "--weights", "w"], capsys)
    assert "and no folders: put the" in shown
    assert "are taken by `jtl predict`, `jtl features` and as the target of `jtl adapt`" in shown
    assert "labels=False" not in shown


def test_the_page_lists_the_methods_that_the_command_takes():
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "command.md").read_text()
    (listed,) = re.findall(r"`--method` is (.*?)\. The", page, re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", listed)) == get_args(Method)
