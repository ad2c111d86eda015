"""Class folders: real photos, and an error with the file's name for every fault."""

from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import data
from jtl.preprocess import pixels


def save(path, shape=(8, 6, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    for name in ("bees/a.png", "bees/b.png", "ants/c.png"):
        save(tmp_path / name)
    (tmp_path / ".hidden").write_text("passed over")
    (tmp_path / "desktop.ini").write_text("passed over too")
    (tmp_path / "ants" / "Thumbs.db").write_bytes(b"and this")
    (tmp_path / "__MACOSX" / "ants").mkdir(parents=True)
    return tmp_path


def test_a_data_set_is_shown_in_one_line(root):
    shown = repr(data.folder(root, size=4, mode="RGB", batch_size=1))
    assert "<3 files of 2 classes: 'ants', 'bees'>" in shown
    assert "PosixPath" not in shown


def test_classes_are_sorted_and_labels_follow(root):
    ds = data.folder(root, size=4, batch_size=3, shuffle=False)
    assert ds.classes == ("ants", "bees")
    batch = ds[0]
    assert batch["x"].shape == (3, 4, 4, 3)
    assert batch["x"].dtype == np.uint8
    assert batch["y"].tolist() == [0, 1, 1]
    assert data.folder(root, size=4, batch_size=3, shuffle=False, classes=["bees", "ants"])[0]["y"].tolist() == [
        0,
        0,
        1,
    ]


def test_a_class_without_images_keeps_its_label(root):
    (root / "beetles").mkdir()
    save(root / "ants" / "x.JFIF.png")
    (root / "ants" / "x.JFIF.png").rename(root / "ants" / "x.JFIF")  # Pillow goes by the bytes
    expected = ["ants", "beetles", "bees"]
    ds = data.folder(root, size=4, batch_size=4, shuffle=False, classes=expected)
    assert ds.classes == tuple(expected)
    assert ds[0]["y"].tolist() == [0, 0, 2, 2]


def test_random_crops_are_a_function_of_the_step(root):
    def crop(x, rng):
        return pixels.random_crop(x, 3, rng)

    def make(**options):
        return data.folder(root, transform=crop, batch_size=2, seed=4, **options)

    whole = make()
    assert (whole[5]["x"] == make()[5]["x"]).all()
    assert any((whole[1]["x"] != whole[step]["x"]).any() for step in (3, 5, 7))
    parts = [make(process_index=i, process_count=2)[5]["x"] for i in range(2)]
    assert (np.concatenate(parts) == whole[5]["x"]).all()


def test_faults_of_the_structure_are_raised_at_once(root, tmp_path):
    def refused(message, error=ValueError, **options):
        with pytest.raises(error, match=message):
            data.folder(root, batch_size=1, **{"size": 4, **options})

    refused("give either size or transform", size=None)
    refused("size=0: must be an integer of at least 1", size=0)
    refused("class 'ants' is there 2 times", classes=["ants", "bees", "ants"])
    (root / "ants" / "z.png").symlink_to(root / "gone.png")
    refused("z.png' is a link to '.*gone.png', which is not there")
    (root / "ants" / "z.png").unlink()
    refused("bees' is a class that is not expected", classes=["ants"])
    (root / "ants" / "notes.txt").write_text("x")
    refused("notes.txt' is not an image file")
    (root / "ants" / "notes.txt").unlink()
    (root / "cats").mkdir()
    refused("cats' is empty")
    save(root / "cats" / "d.png")
    save(root / "stray.png")
    refused("stray.png' lies in no class folder")
    with pytest.raises(FileNotFoundError, match="nowhere' is not a folder"):
        data.folder(tmp_path / "nowhere", size=4, batch_size=1)
    with pytest.raises(ValueError, match=r"ants' holds images and no folders"):
        data.folder(root / "ants", size=4, batch_size=1)


def test_a_corrupt_image_is_named(root):
    whole = (root / "bees" / "b.png").read_bytes()
    (root / "bees" / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b\.png' does not decode"):
        data.folder(root, size=4, batch_size=3)[0]


def test_mixed_channels_are_named_and_a_mode_converts(root):
    save(root / "bees" / "grey.png", (8, 6))
    with pytest.raises(ValueError, match=r"grey\.png' has 1 channels.*c\.png' has 3; pass mode='RGB'"):
        data.folder(root, size=4, batch_size=4)[0]
    assert data.folder(root, size=4, batch_size=4, mode="L")[0]["x"].shape == (4, 4, 4, 1)


def test_a_transform_that_gives_several_shapes_is_refused(root):
    save(root / "bees" / "large.png", (9, 9, 3))
    with pytest.raises(ValueError, match=r"large\.png' became \(9, 9, 3\)"):
        data.folder(root, transform=lambda x, rng: x, batch_size=4, shuffle=False)[0]
    with pytest.raises(ValueError, match="a crop of 9 does not fit an image of 8 x 6") as raised:
        data.folder(root, transform=lambda x, rng: pixels.center_crop(x, 9), batch_size=1, shuffle=False)[0]
    assert f"while image {str(root / 'ants' / 'c.png')!r} was transformed" in raised.value.__notes__

    def small(x: Any, rng: Any) -> Any:
        return Image.fromarray(x).resize((2, 3))

    drawn = data.folder(root, transform=small, batch_size=4, shuffle=False)
    assert drawn[0]["x"].shape == (4, 3, 2, 3)


def test_real_ants_and_bees(real_data):
    ds = data.folder(real_data("hymenoptera/val"), size=64, batch_size=32, shuffle=False)
    assert ds.classes == ("ants", "bees")
    assert ds.size == 153
    assert ds[4]["x"].shape == (32, 64, 64, 3)
    assert ds[4]["mask"].sum() == 153 - 4 * 32


def test_images_without_labels_are_read_wherever_they_are(tmp_path):
    """A target domain, or what is predicted: the images of all folders in order, beside what systems leave."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    places = ["a.png", "b/1.png", "b/c/2.png"]
    for value, place in enumerate([*places, "__MACOSX/3.png", "b/.4.png"]):
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / place)
    (tmp_path / "notes.txt").write_text("mine")
    found = data.folder(tmp_path, batch_size=2, size=4, labels=False, shuffle=False)
    assert found.classes is None
    assert "<3 files without labels>" in repr(found)
    batches = [found[step] for step in range(len(found))]
    assert [sorted(batch) for batch in batches] == [["mask", "x"]] * 2
    seen = np.concatenate([batch["x"][batch["mask"]] for batch in batches])
    assert seen[:, 0, 0, 0].tolist() == [0, 1, 2]
    net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
    net = jtl.preprocessed(net, data.augment.normalise((0.5,) * 3, (0.5,) * 3))
    variables = net.init(jax.random.key(0), np.zeros((2, 4, 4, 3), np.float32))
    assert jtl.predict(net, variables, found).shape == (3, 3)
    pairs = data.pair(data.arrays(np.zeros((2, 4, 4, 3)), [0, 1], batch_size=2), found)
    assert sorted(pairs[0]["target"]) == ["mask", "x"]
    with pytest.raises(ValueError, match=r"classes=\['a'\] with labels=False"):
        data.folder(tmp_path, batch_size=2, size=4, labels=False, classes=["a"])
    with pytest.raises(FileNotFoundError, match="is not a folder of images"):
        data.folder(tmp_path / "absent", batch_size=2, size=4, labels=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no images$"):
        data.folder(tmp_path / "empty", batch_size=2, size=4, labels=False)
