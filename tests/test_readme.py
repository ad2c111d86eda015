"""The README's first lines run as they stand, on a small network of transformers and photos made here."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="transformers writes the network; it is installed for Python 3.11 only")

from torch_references import hf_resnet

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def example(tmp_path):
    """The lines, with these paths, small images and few steps in place of theirs."""
    for label in ("ants", "bees"):
        folder = tmp_path / "photos" / "train" / label
        folder.mkdir(parents=True)
        for i in range(16):
            pixels = np.random.default_rng(i).integers(0, 256, (72, 80, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    hf_resnet("basic", width=8, depths=(1, 1, 1, 1)).save_pretrained(tmp_path / "resnet")
    images = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 64, "crop_pct": 1.0}
    (tmp_path / "resnet" / "preprocessor_config.json").write_text(json.dumps(images))
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    lines = found[1]
    for theirs, ours in {
        '"path/to/resnet-50"': repr(str(tmp_path / "resnet")),
        '"photos/train"': repr(str(tmp_path / "photos" / "train")),
        "size=224": "size=64",
        "steps=500": "steps=3",
    }.items():
        assert lines.count(theirs) == 1, theirs
        lines = lines.replace(theirs, ours)
    return lines


def test_the_ten_lines_of_the_readme(example):
    assert len(example.splitlines()) <= 12
    names = {}
    exec(example, names)
    result, known = names["result"], names["known"]
    assert int(result.state.step) == 3
    before, after = known.variables.params, result.state.params
    np.testing.assert_array_equal(
        before["backbone"]["stem"]["conv"]["kernel"], after["backbone"]["stem"]["conv"]["kernel"]
    )
    for moved in ("head", "stage4"):
        trees = [tree["head"] if moved == "head" else tree["backbone"][moved] for tree in (before, after)]
        same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), *trees)
        assert not any(jax.tree.leaves(same)), moved
