"""Images that cannot be read are told all at once, before the network runs."""

import io
import json
import re

import made
import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.command.pictures import refuse_broken


def encoded(seed, form="png", **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


BROKEN = {
    "empty.jpg": (b"", "it is none of JPEG"),
    "text.png": (b"no image", "it is none of JPEG"),
    "cut.jpg": (encoded(0, "jpeg")[:-200], "image file is truncated"),
    "cut.png": (encoded(0)[:-200], "image file is truncated"),
    "deep.tif": (None, "pixel format I;16"),
}


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for k, name in enumerate(("ants", "bees")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.png").write_bytes(encoded((k, i)))
    for name, (content, _) in BROKEN.items():
        if content is None:
            Image.fromarray(np.zeros((4, 4), np.uint16)).save(root / "bees" / name)
        else:
            (root / "bees" / name).write_bytes(content)
    return root


@pytest.mark.parametrize("command", ["finetune", "adapt", "adapt-few", "rank", "features", "predict"])
def test_all_broken_images_are_told_before_features(command, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = str(made.folder(tmp_path / "net", {**made.RESNET, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    how = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(how))
    words = {
        "finetune": ["photos", "--weights", weights],
        "adapt": ["photos", "photos/bees", "--weights", weights, "--method", "mcc", "--out", "run"],
        "adapt-few": [weights, "--support", "photos"],
        "rank": ["photos", weights],
        "features": ["photos", "--weights", weights],
        "predict": [weights, "photos"],
    }
    monkeypatch.setattr("jtl.command.passes.through", None)  # the network does not run
    assert cli.main([command, *words[command]]) == 2
    said = capsys.readouterr().err
    assert re.search(r"jtl: 5 of \d+ images cannot be read", said)
    for name, (_, why) in BROKEN.items():
        assert re.search(rf"bees/{re.escape(name)}'.*{why}", said)


def test_of_many_the_first_ten_are_named_and_the_others_counted(tmp_path):
    files = [tmp_path / f"{i:02}.jpg" for i in range(13)]
    for file in files:
        file.write_bytes(b"no image")
    (tmp_path / "whole.jpg").write_bytes(encoded(0, "jpeg"))
    with pytest.raises(ValueError, match=r"(?s)^13 of 14 images cannot be read.*09\.jpg'[^\n]*\n  and 3 more$") as told:
        refuse_broken([*files, tmp_path / "whole.jpg"])
    assert "10.jpg" not in str(told.value)
    with pytest.raises(ValueError, match=r"^image '.*00\.jpg' does not decode: it is none of"):
        refuse_broken(files[:1])


def test_damage_that_readers_forgive_is_no_damage(tmp_path):
    """As cameras and editors leave it: bytes after the end of a JPEG."""
    for name, content in (("a.jpg", encoded(0, "jpeg") + b"\0" * 99), ("b.gif", encoded(0, "gif"))):
        (tmp_path / name).write_bytes(content)
    refuse_broken(sorted(tmp_path.iterdir()))
