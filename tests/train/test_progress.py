"""What a run shows."""

import io
import sys

import pytest
from rich.console import Console

from jtl.extras import NotInstalled
from jtl.train import JsonLines, TensorBoard
from jtl.train.progress import Bar, Lines, progress


def test_lines_come_when_they_are_due(capsys):
    now = [0.0]
    lines = Lines(steps=100, epoch=40, seconds=10, clock=lambda: now[0])
    lines.begin(20)
    for step in range(21, 101):
        now[0] += 0.5
        lines.step(step, {"loss": 1 / step, "accuracy": 0.5})
    said = capsys.readouterr().out.splitlines()
    # The first step, one every 20 steps of half a second, and the last.
    assert [line.split()[3] for line in said] == ["21/100", "41/100", "61/100", "81/100", "100/100"]
    assert said[1] == "epoch 2/3  step 41/100  loss 0.02439  accuracy 0.5  2 steps/s  0:00:30 left"
    assert said[-1].endswith("0:00:00 left")


def test_a_bar_shows_the_same_in_a_terminal():
    screen = io.StringIO()
    bar = Bar(100, 40, Console(file=screen, force_terminal=True, width=140))
    bar.begin(20)
    bar.say("compiled in [1.5] s")
    bar.step(41, {"loss": 0.25})
    bar.end()
    shown = screen.getvalue()
    assert "compiled in [1.5] s" in shown
    assert "epoch 2/3  step 41/100" in shown
    assert "loss 0.25" in shown
    assert "steps/s" in shown


def test_no_bar_outside_of_a_terminal():
    assert isinstance(progress(10, 5), Lines)


def test_tensorboard_writes_scalars_that_can_be_read(tmp_path):
    record_file = pytest.importorskip("tensorboardX.record_writer")
    from tensorboardX.proto.event_pb2 import Event

    record = TensorBoard(tmp_path)
    record.start(0)
    record.write(1, "train", {"loss": 0.5})
    record.write(2, "validation", {"accuracy": 0.75})
    record.close()
    del record_file
    (path,) = tmp_path.iterdir()
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):  # length (8), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        at += 16 + size
    assert found == [(1, "train/loss", 0.5), (2, "validation/accuracy", 0.75)]


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(NotInstalled, match=r"pip install 'jtl\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_json_lines_start_behind_what_is_kept(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    record = JsonLines(path)
    record.start(0)
    for step in (1, 2, 3):
        record.write(step, "train", {"loss": step / 2})
    record.close()
    record = JsonLines(path)
    record.start(2)
    record.write(3, "train", {"loss": 9.0})
    record.close()
    assert path.read_text().splitlines()[1:] == [
        '{"step": 2, "split": "train", "loss": 1.0}',
        '{"step": 3, "split": "train", "loss": 9.0}',
    ]
