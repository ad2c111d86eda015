"""Packages of methods under the names that users import from."""

import importlib
import subprocess
import sys

import pytest

import jtl

ROOMS = {
    "alignments": "jtl.methods.adapt",
    "finetuning": "jtl.methods.finetune",
    "learners": "jtl.methods.meta",
    "source_free": "jtl.methods.adapt.source_free",
    "test_time": "jtl.methods.adapt.test_time",
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_all_of_its_package(room):
    package, named = importlib.import_module(ROOMS[room]), importlib.import_module(f"jtl.{room}")
    public = {name: value for name, value in vars(package).items() if callable(value) and not name.startswith("_")}
    assert public
    assert {name: getattr(named, name) for name in public} == public
    assert getattr(jtl, room) is named


def test_a_room_can_be_imported_from_before_anything_else():
    code = "from jtl.alignments import cdan; import jtl; assert jtl.alignments.cdan is cdan"
    subprocess.run([sys.executable, "-c", code], check=True)
