import jax
import pytest

from jtl.command.device import tell_first


@pytest.mark.parametrize(("count", "lines"), [(1, 0), (2, 1)])
def test_other_devices_are_told_where_there_are_some(count, lines, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: count)
    said = []
    tell_first(said.append)
    assert len(said) == lines
    assert all("2 devices, of which this run uses the first" in line for line in said)
