"""`jtl adapt` and `jtl sweep` from end to end, on small pictures whose domains differ in their light."""

import json
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import jtl
from jtl import cli
from jtl.command import adapt, adapt_target, adaptations, source, splits, sweep
from jtl.command.adapt_settings import LOW, AdaptSettings
from jtl.command.adapt_training import Training
from jtl.command.sweep_commands import favoured, ranking
from jtl.model import Variables

pytestmark = pytest.mark.whole

SHORT = ["--steps", "4", "--batch", "4", "--ways", "all", "--learning-rate", "0.001"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Red and blue pictures, dark ones without labels, and a small vision transformer in transformers' files."""
    root, draw = tmp_path_factory.mktemp("adapt"), np.random.default_rng(0)
    for domain, light, count in (("day", 120, 8), ("night", 40, 6)):
        for name, channel in (("blue", 2), ("red", 0)):
            (root / domain / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 60, (8, 8, 3))
                pixels[..., channel] += light
                Image.fromarray(pixels.astype(np.uint8)).save(root / domain / name / f"{i}.png")
    flat = root / "unsorted"
    flat.mkdir()
    for i, file in enumerate(sorted((root / "night").rglob("*.png"))):
        (flat / f"{i:02}.png").write_bytes(file.read_bytes())
    body = jtl.backbones.vit(jtl.backbones.Size(12, 1, 3, 20), image=8, patch=4)
    variables = jtl.network(backbone=body, head=jtl.heads.linear(2)).init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    config = {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
    config |= {"intermediate_size": 20, "image_size": 8, "patch_size": 4}
    (root / "net").mkdir()
    (root / "net" / "config.json").write_text(json.dumps(config))
    save_file({n: np.asarray(a) for n, a in jtl.flatten(variables.params).items()}, root / "net" / "model.safetensors")
    return root


def _words(made, target, method, out, *more):
    return ["adapt", str(made / "day"), str(made / target), "--weights", str(made / "net"), "--method", method,
            "--out", str(out), *SHORT, *more]  # fmt: skip


@pytest.fixture(scope="module")
def run(made):
    assert cli.main(_words(made, "night", "mcc", made / "run", "--labelled", "--watch", "snd")) == 0
    return made / "run"


def test_a_run_holds_its_scores_and_they_are_those_of_its_network(made, run, capsys):
    about = json.loads((run / "run.json").read_text())
    assert about["oracle"] is False
    assert about["settings"]["method"] == "mcc"
    page = (run / "report.html").read_text()
    for word in ("Features before and after", "snd", "The target by its labels", "without a label of the target"):
        assert word in page
    assert "ORACLE" not in page
    assert cli.main(["eval", str(run), str(made / "night")]) == 0
    told = re.search(r"accuracy ([\d.]+) % of 12", capsys.readouterr().out)
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * about["target"]["after"]["accuracy"], abs=0.06)
    assert sorted(jtl.load(run / "model").variables.params) == ["backbone", "head"]


def test_a_run_predicts_and_another_is_refused(made, run, tmp_path, capsys):
    assert cli.main(["predict", str(run), str(made / "unsorted"), "--csv", str(tmp_path / "p.csv")]) == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    assert cli.main(["export", str(run), str(tmp_path / "hf")]) == 0
    assert cli.main(_words(made, "night", "dann", run)) == 2
    assert "method mcc -> dann" in capsys.readouterr().err


def test_a_killed_run_is_not_resumed_from_other_weights(made, run, tmp_path, capsys):
    again, other = shutil.copytree(run, tmp_path / "again"), shutil.copytree(made / "net", tmp_path / "other")
    (again / "run.json").unlink()  # it is written last
    words = _words(made, "night", "mcc", again, "--labelled", "--watch", "snd")
    words[words.index("--weights") + 1] = str(other)
    assert cli.main(words) == 2
    assert f"weights {made / 'net'} -> {other}; give --out" in capsys.readouterr().err


def test_copies_in_the_parts_of_the_source_are_told(made, tmp_path, monkeypatch):
    class Untrained:
        def __init__(self, settings, loaded, *_):
            self.variables = loaded.variables

        def run(self):
            return self.variables, {"before": {"clustering": 0.0}, "after": {"clustering": 0.0}}, 0, []

    (tmp_path / "day").mkdir()
    for part in ("train", "val", "test"):
        (tmp_path / "day" / part).symlink_to(made / "day")
    monkeypatch.setattr(adapt, "Training", Untrained)
    settings = AdaptSettings(tmp_path / "day", made / "unsorted", str(made / "net"), "mcc", tmp_path / "run")
    notes = adapt.run(settings, lambda line: None).notes
    told = [note.partition(" too, as ")[0] for note in notes]
    assert told[:3] == [f"source: 16 examples of {b} are in {a}" for a, b in splits.PAIRS]


@pytest.mark.slow
@pytest.mark.compiling
def test_labels_of_the_target_are_not_read(made, run):
    """The same pictures in one folder and in class folders give the same weights."""
    again = jtl.adapt_files(
        made / "day", made / "unsorted", made / "net", "mcc", made / "again", say=lambda line: None,
        watch="snd", steps=4, batch=4, ways="all", learning_rate=0.001,
    )  # fmt: skip
    assert again.target is None
    mine, theirs = (jtl.flatten(jtl.load(folder / "model").variables.params) for folder in (run, again.folder))
    for path, leaf in mine.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    with pytest.raises(ValueError, match="give a number above zero"):
        jtl.adapt_files(made / "day", made / "night", made / "net", "mcc", weight=-1.0)


@pytest.mark.slow
def test_the_oracle_is_called_one(made, tmp_path, capsys):
    assert cli.main(_words(made, "night", "shot", tmp_path / "run", "--watch", "oracle")) == 0
    said = capsys.readouterr().out
    assert "ORACLE" in said
    assert "1 of 8 devices train, with" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "chosen by the labels of the target" in page
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["oracle"] is True
    assert about["scores"]["after"]["ORACLE/accuracy"] >= about["scores"]["before"]["ORACLE/accuracy"]


CRITIC = {"source", "critic_source", "critic_target"}
TERMS = {
    "source": {"loss"},
    "ada_bn": {"loss"},
    "shot": {"loss"},
    "dann": CRITIC,
    "cdan": CRITIC,
    "cdan_e": CRITIC,
    "mcd": {"first", "second"},
    "im": {"source", "information"},
}


@pytest.mark.parametrize("name", adaptations.NAMES)
def test_a_name_means_its_method(name):
    """The loss of a plan has the term of its method, and its groups hold all parameters."""
    x = np.ones((4, 5), np.float32)
    batch = {"source": {"x": x, "y": np.zeros(4, np.int32)}, "target": {"x": x}}
    net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
    plan = adaptations.plan(name, net, 2, 30)
    objective = adaptations.first(plan.objective)
    variables = jax.eval_shape(lambda key: objective.init(key, batch), jax.random.key(0))
    value, _ = jax.eval_shape(lambda v, key: objective(v.params, v.stats, batch, key, 3), variables, jax.random.key(1))
    assert set(value if isinstance(value, dict) else {"loss"}) == TERMS.get(name, {"source", name})
    owned = [
        path for path in jtl.flatten(variables.params) for g in plan.groups if any(re.fullmatch(p, path) for p in g)
    ]
    assert sorted(owned) == sorted(jtl.flatten(variables.params))


def _two_features(read):
    """A network whose head reads "mean"; the other feature is not a number."""

    def apply(variables, x, *, train, key=None):
        f = jax.numpy.tanh(x @ variables.params["w"])
        return {"mean": f, "pooled": f * np.nan, "other": 2 * f}, variables.stats

    body = jtl.Model(lambda key, x: Variables({"w": jax.random.normal(key, (5, 8))}, {}), apply)
    return jtl.network(backbone=body, head=jtl.heads.linear(2, reads=read))


@pytest.mark.parametrize("name", adaptations.NAMES)
def test_a_method_aligns_what_the_head_reads(name):
    """Networks of texts have features beside the mean of their tokens, and the head does not read them."""
    x, y = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32), np.array([0, 1, 0, 1], np.int32)
    batch = {"source": {"x": x, "y": y}, "target": {"x": x + 1}}
    plan = adaptations.plan(name, _two_features("mean"), 2, 30)
    objective = adaptations.first(plan.objective)
    variables = objective.init(jax.random.key(0), batch)
    turns = [turn.objective for turn in plan.objective] if isinstance(plan.objective, list) else [objective]
    for turn in turns:
        terms, _ = turn(variables.params, variables.stats, batch, jax.random.key(1), 3)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(terms)), terms


def test_a_head_of_two_features_has_none_to_align():
    with pytest.raises(ValueError, match=r"reads \['mean', 'other'\].*aligns one feature"):
        adaptations.plan("coral", _two_features(("mean", "other")), 2, 30)


def test_the_baseline_sees_no_row_of_the_target():
    net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
    plan = adaptations.plan("source", net, 2, 10)
    batch = {"source": {"x": np.ones((2, 5)), "y": np.zeros(2, int)}, "target": {"x": np.full((2, 5), np.nan)}}
    variables = plan.objective.init(jax.random.key(0), batch)
    loss, aux = plan.objective(variables.params, variables.stats, batch, None, 0)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((loss, aux.metrics)))


def test_mistakes_name_what_cannot_be(made, tmp_path):
    with pytest.raises(ValueError, match="there are source, dann"):
        adaptations.plan("dan", jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(2)), 2, 5)
    for wrong, told in (
        ({"batch": 1}, "batch=1"),
        ({"method": "mcd", "weight": 1.0}, "no weight"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(ValueError, match=told):
            AdaptSettings(tmp_path, tmp_path, "w", **{"method": "mcc", **wrong})
    with pytest.raises((ValueError, TypeError), match="'no'"):  # a TypeError where annotations are checked
        AdaptSettings(tmp_path, tmp_path, "w", "no")  # pyright: ignore[reportArgumentType]
    settings = AdaptSettings(made / "day", made / "unsorted", str(made / "net"), "mcc", labelled=True)
    train = source.read(made / "day")["all"]
    with pytest.raises((ValueError, FileNotFoundError), match="unsorted"):  # it has no class folders
        adapt_target.target_of(settings, train)
    (tmp_path / "notes.txt").write_text("night")
    (tmp_path / "split" / "val").mkdir(parents=True)
    (tmp_path / "split" / "train").symlink_to(made / "day")
    for target, told in (
        (made / "net" / ".." / "day", "is the source and the target"),
        (tmp_path / "notes.txt", r"notes.txt' is a file, and the source holds images: give a folder"),
    ):
        with pytest.raises(ValueError, match=told):
            adapt_target.target_of(AdaptSettings(made / "day", target, str(made / "net"), "mcc"), train)
    with pytest.raises(ValueError, match=r"the split '.*val' holds no example"):
        source.read(tmp_path / "split")
    with pytest.raises(FileNotFoundError, match="the target"):
        adapt.run(AdaptSettings(made / "day", made / "none", str(made / "net"), "mcc", tmp_path / "x"), lambda _: None)
    said = []
    with pytest.raises(ValueError, match=r"method='ada_bn': the network of '.*net' has no batch normalisation"):
        adapt.run(AdaptSettings(made / "day", made / "night", str(made / "net"), "ada_bn", tmp_path / "x"), said.append)
    assert not said  # before anything is computed


@pytest.mark.parametrize(
    ("watched", "found", "step"), [("im", 0.6, 7), ("im", 0.4, 0), ("dev", 0.6, 0), ("dev", 0.4, 7)]
)
def test_what_was_adapted_is_kept_where_its_score_is_better(watched, found, step):
    """AdaBN too, which has one candidate."""
    assert ("dev" in LOW, "im" in LOW) == (True, False)
    step = 7 if (watched, found) in {("im", 0.6), ("dev", 0.4)} else 0
    before = SimpleNamespace(variables=Variables({"w": 0.0}, {}))
    scores = {"before": {watched: 0.5}}
    adapted = Variables({"w": 1.0}, {})
    run = SimpleNamespace(watched=watched, loaded=before)
    best, told, chosen = Training.chosen(run, scores, {watched: found}, lambda: adapted, 7)  # pyright: ignore[reportArgumentType]
    assert (best, chosen) == ((adapted, 7) if step else (before.variables, 0))
    assert told == {"before": {watched: 0.5}, "after": {watched: found if step else 0.5}}


def test_a_sweep_resumes_and_ranks_by_the_mean_over_seeds(tmp_path):
    seen = []

    def execute(words):
        seen.append(words)
        if len(seen) == 3:
            raise KeyboardInterrupt
        rate, seed = (float(words[words.index(name) + 1]) for name in ("--learning-rate", "--seed"))
        return {"im": rate + seed, "other": 1.0}

    grid = ["learning_rate=0.1,0.3", "seed=0,1"]
    with pytest.raises(KeyboardInterrupt):
        sweep.run(["adapt", "a", "b"], grid, tmp_path, execute)
    rows = sweep.run(["adapt", "a", "b"], grid, tmp_path, execute)
    assert len(seen) == 5  # the two that were finished are not run again
    ranks = sweep.ranked(rows, "im")
    assert [rank.settings for rank in ranks] == [{"learning_rate": "0.3"}, {"learning_rate": "0.1"}]
    assert ranks[0].mean == pytest.approx(0.8)
    assert ranks[0].half == pytest.approx(12.706 * 0.5, rel=1e-4)  # t of one degree of freedom; std / sqrt(2) = 0.5
    assert sweep.ranked(rows, "im", low=True)[0].settings == {"learning_rate": "0.1"}
    page = sweep.write(ranks, "im", tmp_path, ["adapt"]).read_text()
    assert "learning_rate=0.3" in page
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="another command"):
        sweep.run(["adapt", "a", "c"], grid, tmp_path, execute)
    with pytest.raises(ValueError, match="the runs have the numbers"):
        sweep.ranked(rows, "accuracy")


@pytest.mark.slow
def test_a_sweep_of_the_command_ranks_methods_without_labels(made, tmp_path, capsys):
    words = ["sweep", str(tmp_path), "--grid", "method=source,mcc", "--", "adapt", str(made / "day")]
    words += [str(made / "unsorted"), "--weights", str(made / "net"), *SHORT]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "ranked by clustering" in out
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    for row in rows:
        about = json.loads((tmp_path / f"method={row['settings']['method']}" / "run.json").read_text())
        assert row["numbers"]["clustering"] == about["scores"]["after"]["clustering"]
    first = max(rows, key=lambda row: row["numbers"]["clustering"])["settings"]["method"]
    assert f"Best: method={first}" in (tmp_path / "sweep.html").read_text()


@pytest.mark.slow
@pytest.mark.compiling
def test_mixval_watches_an_adaptation_of_images_alone(made, tmp_path, capsys):
    words = _words(made, "unsorted", "mcc", tmp_path / "run", "--watch", "mixval")
    assert cli.main(words) == 0
    scores = json.loads((tmp_path / "run" / "run.json").read_text())["scores"]
    assert all(0 <= scores[when]["mixval"] <= 1 for when in ("before", "after"))
    for name in ("here", "there"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{name} {i},{i % 2}\n" for i in range(12)))
    words[1:3] = [str(tmp_path / "here.csv"), str(tmp_path / "there.csv")]
    assert cli.main([*words, "--out", str(tmp_path / "texts")]) == 2
    assert "watch='mixval' mixes the numbers of two inputs, and the data are texts" in capsys.readouterr().err


def test_methods_are_not_ranked_by_what_they_maximise_unsaid():
    row = lambda method: {"settings": {"method": method}, "numbers": {"im": 1.0, "bnm": 0.5}, "seconds": 1.0}  # noqa: E731
    ranks = sweep.ranked([row(name) for name in ("mcc", "im", "shot", "bnm")], "im")
    assert str(favoured(ranks, "im")).startswith("im is what the loss of im and shot maximises")
    assert str(favoured(ranks, "bnm")).startswith("bnm is what the loss of bnm maximises")
    assert favoured(ranks, "clustering") is None
    assert favoured(ranks[:1], "im") is None


@pytest.mark.parametrize(
    ("grid", "command", "told"),
    [
        ([], ["adapt"], "no --grid"),
        (["method="], ["adapt"], "different values"),
        (["seed=0,0"], ["adapt"], "different values"),
        (["seed=0", "seed=1"], ["adapt"], "twice"),
        (["out=a"], ["adapt"], "folder of its own"),
        (["seed=0,00"], ["adapt"], "'0' and '00' mean the same"),
        (["learning_rate=1e-4,0.0001"], ["adapt"], "mean the same"),
        (["balanced=True,true"], ["finetune"], "mean the same"),
        (["weights=net,net/"], ["adapt"], "mean the same"),
        (["seed=0,1"], ["adapt", "a", "b", "--seed", "5"], "'--seed' after --: the grid has"),
        (["learning_rate=1,2"], ["adapt", "a", "b", "--learning_rate=5"], "the grid has the option 'learning_rate'"),
        (["balanced=true"], ["finetune", "a", "--no-balanced"], "the grid has the option 'balanced'"),
        (["seed=0"], ["adapt", "a", "b", "--out", "c"], "folder of its own"),
        (["seed=0"], ["models"], "after --"),
        (["seed=0"], [], "after --"),
        (["seed=0"], ["train", "digits"], "--by"),
        (["watch=im,snd"], ["adapt"], "several values of watch"),
    ],
)
def test_a_sweep_that_cannot_be_says_why(grid, command, told):
    with pytest.raises(ValueError, match=told):
        ranking(command, grid, None)


def test_mistakes_of_a_sweep_are_told_before_its_first_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "run", lambda *_: pytest.fail("a run was begun"))
    words = ["--", "finetune", "photos", "--weights", "net"]
    for grid, more, told in [
        (["seed=0,b"], [], "'b'"),
        (["seed=0,1", "sed=0"], [], "--sed"),
        (["batch=4,0"], [], "batch=0: give at least 1"),
        (["seed=0,1"], ["--by", "accuracy"], "the runs have the numbers ['test accuracy', 'validation accuracy']"),
    ]:
        assert cli.main(["sweep", str(tmp_path), "--grid", *grid, *more, *words]) == 2
        assert told in " ".join(capsys.readouterr().err.split())


def test_a_sweep_names_the_file_that_it_cannot_go_on_from(tmp_path):
    for text, told in (("{broken", "Expecting property name"), ("[]", "no command and no rows")):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(ValueError, match=rf"sweep\.json' is not as a sweep writes it: .*{told}"):
            sweep.run(["adapt"], ["seed=0"], tmp_path, lambda words: {})
    with pytest.raises(ValueError, match=r"OUT '.*sweep\.json': .* is no folder"):
        sweep.run(["adapt"], ["seed=0"], tmp_path / "sweep.json", lambda words: {})


def test_a_run_whose_number_is_nan_is_ranked_last():
    """Sorted by NaN, a list is in no order, and a run that went wrong could be the best."""
    values = {"a": 0.3, "b": float("nan"), "c": 0.9, "d": 0.6}
    rows = [{"settings": {"rate": name}, "numbers": {"score": v}, "seconds": 1.0} for name, v in values.items()]
    for low, order in ((False, "cdab"), (True, "adcb")):
        assert "".join(rank.settings["rate"] for rank in sweep.ranked(rows, "score", low)) == order
    with pytest.raises(ValueError, match=r"--by 'score': it is no number \(NaN\) in any setting"):
        sweep.ranked(rows[1:2], "score")
