"""The table of networks: every family is in it, with published sizes."""

from benchmarks.backbones import SHOWN, row
from jtl.pretrained.catalogue import names


def test_no_family_is_left_out():
    known = names()
    shown = {kind for kind, name in known if (name or kind) in SHOWN}
    # CLIP's and SigLIP's two towers are shown one by one.
    assert {kind for kind, _ in known} - shown == {"clip", "siglip"}
    assert set(SHOWN) <= {name or kind for kind, name in known}


def test_a_row_has_its_own_network_though_others_share_its_familys_name():
    """GPT-2's smallest, as published: 124.4 million parameters."""
    found = row("gpt2")
    assert found["parameters"] == 124_439_808
