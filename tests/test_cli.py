import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from jtl import cli
from jtl.command import inputs
from jtl.extras import NotInstalled
from jtl.recipes import digits
from jtl.recipes.parts import digits_data, digits_transfer
from jtl.recipes.parts.base import command
from jtl.train import NonFiniteLoss
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.checkpoint.claim import NotClaimed
from jtl.train.checkpoint.manifest import NotSaved
from jtl.train.step import make_step

pytestmark = pytest.mark.whole

COMMANDS = ("demo", "train", "eval", "predict", "describe", "models", "inspect")
RECIPE = '''
"""A recipe of one's own."""
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Recipe:
    """Nothing but numbers.

    Args:
      out: unused.
      claim: whether it holds.
      rate: a number.
    """
    out: Path = Path("runs")
    claim: bool = True
    rate: float = 0.5

    def train(self):
        print("rate", self.rate)
        if self.rate > 100:
            raise ValueError("a bug deep in the run")
        if self.rate > 10:
            raise FileNotFoundError("no data here; set JTL_DATA")
        return {"failed": [] if self.claim else ["claim is false"]}
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return str(path)


def test_help_names_every_command_without_loading_jax():
    code = "import sys, jtl.cli; rc = jtl.cli.main(['--help']); print('jax' in sys.modules, rc)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False 0"
    for name in COMMANDS:
        assert name in done.stdout


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "jtl", "train", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no recipe 'nothing'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"jtl {name}" in capsys.readouterr().out


def test_help_lists_the_recipes_and_a_recipe_its_options(capsys):
    assert cli.main(["train", "--help"]) == 0
    listed = capsys.readouterr().out
    for path in cli.RECIPES.glob("[!_]*.py"):
        assert path.stem in listed
    assert cli.main(["train", "digits", "--help"]) == 0
    assert "--transfer.shot" in capsys.readouterr().out


def test_a_recipe_file_runs_with_options_and_its_claims_set_the_exit_code(mine, capsys):
    assert cli.main(["train", mine, "--rate", "2.5"]) == 0
    assert capsys.readouterr().out == "rate 2.5\n"
    assert cli.main(["train", mine, "--no-claim"]) == 1
    told = "not as claimed for the recipe's own settings, but run with --no-claim: claim is false"
    assert told in capsys.readouterr().err


def test_a_run_that_cannot_resume_is_told_without_a_traceback(tmp_path, capsys):
    """As after `--stage.steps 10`, where 30 were taken."""
    support = Path(__file__).parent / "support"
    (tmp_path / "again.py").write_text(
        f"""import sys
sys.path.insert(0, {str(support)!r})
from dataclasses import dataclass
import jtl
from least_squares import Data, begun, train

@dataclass(frozen=True)
class Recipe:
    steps: int = 3

    def train(self):
        train(*begun(), Data(), steps=self.steps, checkpoints=jtl.Checkpoints({str(tmp_path / "run")!r}))
        return {{}}
"""
    )
    assert cli.main(["train", str(tmp_path / "again.py")]) == 0
    assert cli.main(["train", str(tmp_path / "again.py"), "--steps", "1"]) == 2
    assert "has taken 3; give at least as many, or begin another run" in capsys.readouterr().err


def test_a_recipe_file_may_have_the_name_of_a_module(tmp_path, mine):
    import fractions

    named = tmp_path / "fractions.py"
    named.write_text(Path(mine).read_text())
    assert cli.main(["train", str(named)]) == 0
    assert sys.modules["fractions"] is fractions


def test_files_of_texts_are_lines_as_editors_have_them(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffa quiet triumph\r\n \r\nno\u2028more\x85\n".encode())
    assert inputs.texts((str(file), "as it is")) == ["a quiet triumph", "no\u2028more\x85", "as it is"]
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"texts\.txt' is no text in UTF-8"):
        inputs.texts((str(file),))


def test_missing_data_is_told_and_a_bug_keeps_its_traceback(mine, capsys):
    assert cli.main(["train", mine, "--rate", "11"]) == 2
    assert capsys.readouterr().err == "jtl: no data here; set JTL_DATA\n"
    with pytest.raises(ValueError, match="a bug deep in the run"):
        cli.main(["train", mine, "--rate", "101"])


@pytest.mark.parametrize("kind", [NonFiniteLoss, NotClaimed, NotSaved, NotInstalled])
def test_an_error_that_says_what_to_do_is_told_without_a_traceback(kind, mine, capsys, monkeypatch):
    """A loss that is NaN, a folder in use, a full disk, an extra that is not installed; not errors of jax or Python."""

    def failing(error):
        def run(*_, **__):
            raise error

        return run

    words = (["export", "run", "out"], ["predict", "run", "a.png"], ["eval", "run"])
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    monkeypatch.setattr(cli.actions, "saved", failing(full))
    assert cli.main(["eval", "run"]) == 2
    said = capsys.readouterr().err
    assert "give a smaller --batch, or --size for images, if the command has them, or set JAX" in said
    assert "jax says: RESOURCE_EXHAUSTED: Out" in said
    monkeypatch.setattr(cli.actions, "saved", lambda run: np.zeros((1 << 20, 1 << 20, 1 << 10)))  # 8 petabytes
    assert cli.main(["eval", "run"]) == 2
    said = capsys.readouterr().err
    assert "the machine has too little memory: give fewer examples" in said
    assert "the error says: Unable to allocate" in said
    for error, told in ((kind("do this"), True), (RuntimeError("jax's own"), False), (ModuleNotFoundError("x"), False)):
        for name in ("export", "saved"):
            monkeypatch.setattr(cli.actions, name, failing(error))
        for given in words:
            if told:
                assert cli.main(given) == 2
                assert capsys.readouterr().err == "jtl: do this\n"
            else:
                with pytest.raises(type(error), match=str(error)):
                    cli.main(given)


@pytest.mark.parametrize(
    ("words", "action", "given"),
    [
        ("eval run photos --label l --file f", "evaluate", {"text": None, "label": "l", "file": "f"}),
        ("predict run a b --csv c.csv --text t", "predict", {"inputs": ("a", "b"), "csv": Path("c.csv"), "text": "t"}),
        ("features a --weights w --file f", "features", {"weights": "w", "file": "f", "text": None, "arch": None}),
        ("rank photos w --label l --seed 3", "rank", {"models": ("w",), "text": "text", "label": "l", "seed": 3}),
        ("export run there --format jtl", "export", {"folder": Path("run"), "out": Path("there"), "format": "jtl"}),
        ("sweep there --grid a=1 --by b -- train x", "sweep", {"grid": ("a=1",), "by": "b", "command": ["train", "x"]}),
    ],
)
def test_arguments_reach_what_a_command_does_by_their_names(words, action, given, monkeypatch):
    seen: dict[str, object] = {}
    monkeypatch.setattr(cli.actions, "saved", lambda run: run)
    monkeypatch.setattr(cli.actions, action, lambda **values: seen.update(values) or 0)
    assert cli.main(words.split()) == 0
    assert {name: seen[name] for name in given} == given


def test_a_recipe_whose_loss_is_not_finite_is_told(tmp_path, capsys):
    (tmp_path / "bad.py").write_text(
        RECIPE.replace('ValueError("a bug', 'jtl.NonFiniteLoss("a bug').replace(
            "from dataclasses", "import jtl\nfrom dataclasses"
        )
    )
    assert cli.main(["train", str(tmp_path / "bad.py"), "--rate", "101"]) == 2
    assert capsys.readouterr().err == "jtl: a bug deep in the run\n"


NAMES = sorted(path.stem for path in cli.RECIPES.glob("[!_]*.py"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "Expected one of"),
        (["fly"], "fly"),
        (["train", "digit"], "did you mean 'digits'?"),
        (["train", "absent.py"], "the recipe file 'absent.py' does not exist"),
        (["train", "digits", "--seeds", "0"], "seeds=0: must be above zero"),
        (["train", "digits", "--seeds", "many"], "many"),
        (["train", "digits", "--transfer.tune-lr", "nan"], "tune_lr=nan: must be above zero"),
        (["train", "digits", "--transfer.shots", "3"], "--transfer.shots"),
        (["demo", "--few.way", "9"], "only 3 digits are unseen"),
        *((["train", name, "--seed", "-1"], "seed=-1: must be 0 or more") for name in NAMES),
        (["train", "usps_dann", "--stage.learning-rate", "inf"], "learning_rate=inf: must be above zero and finite"),
        (["describe", "nothing"], "no recipe 'nothing'"),
        (["eval", "absent"], "'absent' does not exist: give the folder of a run"),
        (["predict", "absent"], "nothing to look at"),
        (["models", "resnet51"], "no network is named 'resnet51'"),
        (["inspect", "absent.pth"], "absent.pth does not exist"),
        (["predict", "absent", "absent.png"], "'absent' does not exist: give the folder of a run"),
    ],
)
def test_mistakes_are_told_without_a_traceback(argv, said, capsys):
    assert cli.main(argv) == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in told
    assert "Traceback" not in told


def test_describe_prints_the_recipes_network(capsys):
    assert cli.main(["describe", "digits", "--transfer.tune-lr", "0.25"]) == 0
    printed = capsys.readouterr().out
    network = digits.Recipe().network()
    count = sum(leaf.size for leaf in jax.tree.leaves(network.variables.params))
    assert f"{count:,} parameters" in printed
    assert "0.25" in printed


def test_models_lists_networks(capsys):
    assert cli.main(["models", "cifar_resnet20"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["cifar_resnet", "cifar_resnet20"]


def test_a_reader_that_has_enough_ends_the_command(tmp_path, capsys, monkeypatch):
    """As `head`, which closes the pipe."""
    monkeypatch.setattr("jtl.pretrained.inspect.FAMILIES", {})
    np.savez(tmp_path / "x.npz", w=np.zeros((2, 3), np.float32))
    for words in (["models", "vgg11"], ["inspect", str(tmp_path / "x.npz")]):
        there, here = os.pipe()
        os.close(there)
        with os.fdopen(here, "w") as pipe, monkeypatch.context() as only:
            only.setattr(sys, "stdout", pipe)
            assert cli.main(words) == 141
    assert capsys.readouterr().err == ""


def test_inspect_prints_what_a_file_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jtl.pretrained.inspect.FAMILIES", {})
    np.savez(tmp_path / "x.npz", w=np.zeros((2, 3), np.float32))
    assert cli.main(["inspect", str(tmp_path / "x.npz")]) == 0
    assert "1 tensors, 6 numbers, 24 bytes" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "x.npz"), "--rows", "-1"]) == 2
    assert "rows=-1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of the digits recipe as `jtl train digits --seed 3` would leave it, untrained."""
    folder = tmp_path_factory.mktemp("run")
    recipe = digits.Recipe(out=folder, seed=3)
    network = recipe.network()
    step = make_step(lambda *a: None, optax.sgd(0.1))  # pyright: ignore
    saved = Checkpoints(folder / "checkpoints", recipe=command("digits", recipe))
    saved.save(step.init(network.variables, jax.random.key(0)))
    saved.wait()
    return folder, recipe, network


def test_predict_says_what_the_network_says(run, capsys):
    folder, _, network = run
    x = digits_transfer.views(digits_transfer.Transfer(), digits_data.load()[0])
    files = [str(digits_data.write(x[i], folder / f"{i}.png")) for i in (5, 6)]
    assert cli.main(["predict", str(folder / "checkpoints"), *files, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for file, line in zip(files, lines, strict=True):
        pixels = digits_data.read(Path(file))[None]
        out, _ = network.net.apply(network.variables, pixels, train=False, key=None)
        share = np.asarray(jax.nn.softmax(out.output))[0]
        best = np.argsort(-share)[:2]
        assert line == f"{file}: " + ", ".join(f"{network.classes[i]} ({100 * share[i]:.1f} %)" for i in best)


def test_a_recipe_of_images_takes_no_column_of_texts(run, tmp_path, capsys):
    assert cli.main(["predict", str(run[0] / "checkpoints"), str(tmp_path / "a.png"), "--text", "c"]) == 2
    assert "--text 'c' is a column of texts, and the recipe's network takes files" in capsys.readouterr().err


def test_eval_prints_the_recipes_metrics(run, capsys):
    folder, recipe, network = run
    assert cli.main(["eval", str(folder / "checkpoints")]) == 0
    assert f"step 0: accuracy {recipe.evaluate(network.variables)['accuracy']:g}" in capsys.readouterr().out


def test_a_file_that_is_no_image_is_named(run, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert cli.main(["predict", str(run[0] / "checkpoints"), str(broken)]) == 2
    assert "broken.png' does not decode" in capsys.readouterr().err
    for given, said in (("absent.png", "the file 'absent.png' does not exist"), (str(tmp_path), "is no file")):
        assert cli.main(["predict", str(run[0] / "checkpoints"), given]) == 2
        assert said in capsys.readouterr().err


def test_a_checkpoint_of_no_recipe_is_refused(run, tmp_path, capsys):
    step = make_step(lambda *a: None, optax.sgd(0.1))  # pyright: ignore
    saved = Checkpoints(tmp_path / "own", recipe="written by hand")
    saved.save(step.init(run[2].variables, jax.random.key(0)))
    saved.wait()
    assert cli.main(["eval", str(tmp_path / "own")]) == 2
    assert "was not written by a recipe" in capsys.readouterr().err


def test_a_text_of_several_lines_is_predicted_in_one(capsys):
    """A reader of the output takes each line as an example, as in `jtl predict RUN films.csv | wc -l`."""
    cli.actions.ranked(["good\r\nand\nlong", "bad"], np.eye(2), ("yes", "no"), top=1)
    assert capsys.readouterr().out == "good and long: yes (100.0 %)\nbad: no (100.0 %)\n"
