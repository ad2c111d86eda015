"""`jtl rank` and `jtl features --cache` on small pictures, beside transformers' features of the same networks."""

import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.command.model import Inputs
from jtl.command.rank import rank
from jtl.methods.finetune import Cache
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.selection import ranking

SIZE = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Red and blue pictures, a ResNet with a classifier of five classes, and one without."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    root, draw = tmp_path_factory.mktemp("rank"), np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = draw.integers(0, 200, (SIZE, SIZE, 3))
            pixels[..., channel] += 25
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name / f"{i}.png")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    transformers.ResNetForImageClassification(config).save_pretrained(root / "whole")
    transformers.ResNetModel(config).save_pretrained(root / "bare")
    return root


def theirs(root):
    """Features by name of the network, the classifier's probabilities, and labels, by torch."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    files = [root / "photos" / name / f"{i}.png" for name in ("blue", "red") for i in range(10)]
    how = Preprocessing(round(SIZE * 256 / 224), SIZE, "bilinear", *IMAGENET)
    x = torch.from_numpy(np.array(Inputs(preprocessing=how).read(files).transpose(0, 3, 1, 2)))
    with torch.no_grad():
        classifier = transformers.AutoModelForImageClassification.from_pretrained(root / "whole").eval()
        probabilities = classifier(x).logits.softmax(1).numpy()
        bare = transformers.AutoModel.from_pretrained(root / "bare").eval()
        features = {"whole": classifier.resnet(x).pooler_output, "bare": bare(x).pooler_output}
    return {n: f.flatten(1).numpy() for n, f in features.items()}, probabilities, np.repeat([0, 1], 10)


def test_scores_are_those_of_transformers_features(made):
    features, probabilities, y = theirs(made)
    found = {one.model: one for one in rank(made / "photos", [str(made / n) for n in features], size=SIZE)}
    for name, f in features.items():
        one = found[str(made / name)]
        assert one.width == 16
        wanted = ranking.scores(f, y, probabilities if name == "whole" else None)
        np.testing.assert_allclose(one.scores[:3], wanted[:3], rtol=2e-3)
        if name == "whole":
            np.testing.assert_allclose(np.array(one.scores[3:], float), np.array(wanted[3:], float), rtol=1e-4)
            assert not one.note
        else:
            assert one.scores[3:] == (None, None)
            assert one.note


def test_the_command_orders_by_a_score_and_a_cache_makes_it_run_once(made, tmp_path, capsys, monkeypatch):
    models, out = [str(made / "bare"), str(made / "whole")], []
    words = ["rank", str(made / "photos"), *models, "--size", str(SIZE), "--by", "leep", "--per-class", "8"]
    words += ["--cache", str(tmp_path)]
    for _ in range(2):
        assert cli.main(words) == 0
        out.append(capsys.readouterr().out)
        monkeypatch.setattr(Cache, "_write", None)  # nothing is computed again
    assert out[0] == out[1]
    rows = [line.split() for line in out[0].splitlines() if line.startswith(str(made))]
    assert [row[0] for row in rows] == models[::-1]  # a network without LEEP comes last
    assert rows[1][-2:] == ["-", "-"]
    assert "no NCE and LEEP of" in out[0]
    few = rank(made / "photos", models[:1], size=SIZE, per_class=8)
    assert f"{few[0].scores.logme:.4g}" in rows[1]
    assert few != rank(made / "photos", models[:1], size=SIZE, per_class=8, seed=1)


def test_features_of_layers_and_a_cache_that_sees_each_change(made, tmp_path, monkeypatch):
    computed, write = [], Cache._write

    def spy(path, key, made):
        computed.append(path)
        write(path, key, made)

    monkeypatch.setattr(Cache, "_write", staticmethod(spy))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        (photos / f"{i}.png").write_bytes((made / "photos" / "red" / f"{i}.png").read_bytes())

    def run(new, *options, size=SIZE, cached=True):
        del computed[:]
        words = ["features", str(photos), "--weights", str(made / "whole"), "--size", str(size), *options]
        words += ["--cache", str(tmp_path / "cache")] * cached
        assert cli.main([*words, "--out", str(tmp_path / "f.npz")]) == 0
        assert len(computed) == new
        with np.load(tmp_path / "f.npz") as file:
            return file["features"]

    first = run(1)
    np.testing.assert_allclose(first, theirs(made)[0]["whole"][10:13], atol=1e-4)
    np.testing.assert_array_equal(run(0, cached=False), first)
    np.testing.assert_array_equal(run(0), first)
    np.testing.assert_allclose(run(1, "--layers", "stage1", "pooled")[:, 8:], first, atol=1e-6)
    assert np.abs(run(1, size=40) - first).max() > 1e-3  # another preprocessing
    (photos / "0.png").rename(photos / "9.png")  # another order of the rows
    np.testing.assert_array_equal(run(1), np.roll(first, -1, 0))
    (photos / "0.png").write_bytes((made / "photos" / "blue" / "4.png").read_bytes())
    added = run(1)
    (photos / "0.png").write_bytes((made / "photos" / "blue" / "5.png").read_bytes())
    changed = run(1)
    np.testing.assert_array_equal(added[1:], changed[1:])
    np.testing.assert_array_equal(added[1:], np.roll(first, -1, 0))
    assert np.abs(added[0] - changed[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per-class", "0"], "per_class=0: give at least 1"),
        (["{whole}"], "2 models, 1 of them different"),
    ],
)
def test_mistakes_are_told(made, options, message, capsys):
    words = ["rank", str(made / "photos"), str(made / "whole"), *(o.format(whole=made / "whole") for o in options)]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_does_not_load_is_named(made, tmp_path):
    (tmp_path / "model.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"model\.npz"):
        rank(made / "photos", [str(tmp_path / "model.npz")])
    with pytest.raises(ValueError, match="by='best'"):
        rank(made / "photos", [str(made / "whole")], by="best")


def test_images_are_checked_once_for_all_models(made, monkeypatch):
    seen = []
    for module in ("rank", "model"):
        monkeypatch.setattr(f"jtl.command.{module}.refuse_broken", seen.append)
    rank(made / "photos", [str(made / "whole"), str(made / "bare")], size=SIZE)
    assert [len(files) for files in seen] == [20]
