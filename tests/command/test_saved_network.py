"""What is known of the run of a saved network."""

from jtl.command.saved_network import columns


def test_a_network_that_no_run_wrote_has_the_usual_columns(tmp_path, caplog):
    assert columns(tmp_path / "model")[:3] == ("text", "label", None)
    assert not caplog.records
    (tmp_path / "run.json").write_text("of another program", encoding="utf-8")
    assert columns(tmp_path / "model", label="kind")[:3] == ("text", "kind", None)
    (told,) = caplog.messages  # it may be of a run, and damaged: then the run's columns are not known
    assert "run.json' is not as a run of jtl writes it" in told
    assert "columns are 'text' and 'label'" in told
