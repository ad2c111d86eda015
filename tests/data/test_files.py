"""Images whose files are listed: what `folder` reads, with labels of any kind."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from PIL import Image

import jtl
from jtl import data


@pytest.fixture
def paths(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(16):
        place = tmp_path / ("ants", "bees")[i % 2] / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True)
        pixels = draw.integers(0, 40, (10, 9, 3)) + 10 * i
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    return sorted(tmp_path.glob("*/*.png"))


def crop(image, rng):
    top, left = rng.integers(0, 4, 2)
    return image[top : top + 6, left : left + 6]


def same(one, other, steps):
    for step in range(steps):
        ours, theirs = one[step], other[step]
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("options", [{"size": 6}, {"transform": crop, "seed": 3}, {"size": 5, "mode": "L"}])
def test_the_files_of_a_folder_are_the_folder(paths, options):
    root, y = paths[0].parents[1], [path.parent.name == "bees" for path in paths]
    for more in ({}, {"shuffle": False}, {"drop_last": True}, {"process_index": 1, "process_count": 3}):
        given = {"batch_size": 6, "classes": ["ants", "bees"], **options, **more}
        listed, whole = data.files(map(str, paths), np.array(y, int), **given), data.folder(root, **given)
        assert listed.classes == whole.classes
        same(listed, whole, 5)
    given = {"batch_size": 6, **options}
    same(data.files(paths, **given), data.folder(root, labels=False, **given), 3)


def test_real_ants_and_bees_are_the_folder(real_data):
    root = real_data("hymenoptera/val")
    paths = sorted(root.glob("*/*"))
    given = {"batch_size": 50, "size": 32, "mode": "RGB", "classes": ("ants", "bees")}
    y = np.array([path.parent.name == "bees" for path in paths], int)
    same(data.files(paths, y, **given), data.folder(root, **given), 4)


def test_parts_are_those_of_the_folder(paths):
    """They are drawn within each class, by the labels that the source has."""
    given = {"batch_size": 2, "size": 6, "classes": ["ants", "bees"]}
    y = np.array([path.parent.name == "bees" for path in paths], int)
    ours, theirs = (
        data.split(one, {"val": 0.25})
        for one in (data.files(paths, y, **given), data.folder(paths[0].parents[1], **given))
    )
    for part in ("train", "val"):
        same(ours[part], theirs[part], 3)


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_tasks_train_on_files(paths, task):
    shade = np.array([float(np.mean(np.asarray(Image.open(path)))) for path in paths])
    if task == "regression":
        made, y = jtl.tasks.regression(centre=shade.mean(), scale=shade.std()), shade
    else:
        made, y = jtl.tasks.multi_label(("dark", "light")), np.stack([shade < 90, shade > 60], 1).astype(int)
    batches = data.files(paths, y, size=8, batch_size=8)
    assert batches[0]["y"].dtype == (np.float32 if task == "regression" else np.int32)
    net = jtl.network(backbone=jtl.backbones.conv4(8), head=made.head)
    net = jtl.preprocessed(net, data.augment.normalise((0.5,) * 3, (0.5,) * 3))
    objective = jtl.finetune(net, **made.supervision)
    step = jtl.make_step(objective, optax.adam(1e-2))
    state = step.init(objective.init(jax.random.key(0), batches[0]), jax.random.key(1))
    judge = jtl.evaluation(net, **made.supervision)
    before = jtl.evaluate(judge, jtl.variables(state), batches)["loss"]
    state = jtl.fit(step, state, batches, steps=30, progress=False).state
    assert jtl.evaluate(judge, jtl.variables(state), batches)["loss"] < before / 2


def test_a_data_set_is_shown_in_one_line(paths):
    assert "<16 files with labels float32(16,)>" in repr(data.files(paths, np.ones(16), size=4, batch_size=1))
    assert "<16 files without labels>" in repr(data.files(paths, size=4, batch_size=1))


def test_faults_are_raised_at_once(paths, tmp_path):
    def refused(message, given, y: Any = None, error: type[Exception] = ValueError, **options):
        with pytest.raises(error, match=message):
            data.files(given, y, batch_size=2, **{"size": 4, **options})

    refused("give either size or transform", paths, size=None)
    refused("paths is empty", [])
    refused(r"paths is 'photos'; give a list of paths, or a folder to jtl\.data\.folder", "photos", error=TypeError)
    refused("paths and y differ in length: 16 and 3", paths, [0, 1, 0])
    refused(r"y\[1\] is 2; labels must be \[0, 2\)", paths[:2], [0, 2], classes=2)
    refused("y is NaN in row 1", paths[:2], [0.5, np.nan])
    refused("y holds names, as", paths[:2], ["ants", "bees"], error=TypeError)
    gone = [tmp_path / f"{i}.png" for i in range(12)]
    told = r"^1 of the 3 files are not there:\n  paths\[1\]: '.*/0\.png'$"
    refused(told, [paths[0], gone[0], paths[1]], error=FileNotFoundError)
    refused(
        r"12 of the 13 files (.|\n)*paths\[10\]: '.*/9\.png'\n  \.\.\.$", [paths[0], *gone], error=FileNotFoundError
    )
    refused("not there", [tmp_path], error=FileNotFoundError)
    refused("no gs:// addresses", ["gs://photos/1.png"])
    (tmp_path / "a.wav").touch()
    refused(r"paths\[1\] is '.*a\.wav', which is not an image file", [paths[0], tmp_path / "a.wav"])
