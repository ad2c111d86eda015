"""The command `jtl`: runs recipes, evaluates them, predicts, and describes networks and weight files.

Each command imports what it needs when it needs it, so `jtl --help` does not wait for jax.
"""

import ast
import functools
import inspect
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from jtl.allocator import keep_freed_memory
from jtl.command import actions, parsers
from jtl.command.inputs import files, texts
from jtl.command.interrupt import end_at_once
from jtl.command.options import expanded

RECIPES = Path(__file__).parent / "recipes"
OWN = "runs of `jtl finetune`, `jtl adapt` and `jtl adapt-few`, and folders of jtl.save"
"""The folders that describe their network, classes and inputs, for messages."""


class Mistake(Exception):
    """A mistake that the user can correct; it is printed without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0; 1 if a claim of the recipe did not hold or a run of a sweep failed; 2 for a mistake of the
      user; and, following shells, 130 after Ctrl-C and 141 if the reader of the output ended first.
    """
    if argv is None:  # the process belongs to the command
        keep_freed_memory()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for names that are not UTF-8
    given = list(sys.argv[1:] if argv is None else argv)
    # A recipe has its own options, known once it is loaded: the words after its name belong to it.
    known = {"demo": 1, "train": 2, "describe": 2}.get(given[0] if given else "", len(given))
    if known == 2 and len(given) > 1 and given[1].startswith("-"):
        known = len(given)
    if given[:1] == ["sweep"] and "--" in given:
        known = given.index("--")
    given, options = given[:known], given[known:]
    options = options[1:] if options[:1] == ["--"] else options
    # For each command, the parser of its arguments and its action, which takes arguments of the same names.
    commands: dict[str, tuple[Callable, Callable[..., int]]] = {
        "demo": (parsers.demo, lambda: _train("digits", options, "jtl demo")),
        "train": (parsers.train, lambda recipe: _train(recipe, options, f"jtl train {recipe}")),
        "eval": (parsers.evaluate, _evaluate),
        "predict": (parsers.predict, _predict),
        "describe": (parsers.describe, lambda recipe: _describe(recipe, options)),
        "models": (parsers.models, _models),
        "inspect": (parsers.inspect, _inspect),
        "finetune": (parsers.finetune, _told(lambda settings: actions.finetune(parsers.checked(settings)))),
        "adapt": (parsers.adapt, _told(lambda settings: actions.adapt(parsers.checked(settings)))),
        "sweep": (parsers.sweep, _told(lambda **given: actions.sweep(**given, command=options, recipe=_recipe))),
        "features": (parsers.features, _told(actions.features)),
        "rank": (parsers.rank, _told(actions.rank)),
        "adapt-few": (parsers.adapt_few, _told(lambda settings: actions.adapt_few(parsers.checked(settings)))),
        "export": (parsers.export, _export),
    }
    try:
        chosen, values = _parse(given, {name: parser for name, (parser, _) in commands.items()})
        code = commands[chosen][1](**values)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python would flush the rest at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Mistake as mistake:
        print(f"jtl: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after training, which saves on an interrupt; see `jtl.fit`
        print("jtl: interrupted", file=sys.stderr)
        if argv is None:
            end_at_once(130)
        return 130
    except SystemExit as ended:  # tyro has said what is wrong, or has shown the help
        return ended.code if isinstance(ended.code, int) else 2


def _parse(given: list[str], commands: dict[str, Callable]) -> tuple[str, dict[str, Any]]:
    """Returns the name of the command, and its arguments by name."""
    parsers.train.__doc__ = "Run a recipe; `jtl train RECIPE --help` lists its options.\n\n" + _listed()
    readers = {name: _named(name, parser) for name, parser in commands.items()}
    # The command alone, because tyro would suggest options of other commands for a misspelt one.
    if given and given[0] in readers:
        return tyro.cli(readers[given[0]], args=given[1:], prog=f"jtl {given[0]}")
    return tyro.extras.subcommand_cli_from_dict(
        readers,
        prog="jtl",
        description="Transfer learning in JAX. Start with: jtl demo, or jtl finetune photos/ --weights WEIGHTS",
        args=given,
    )


def _named(name: str, parser: Callable) -> Callable[..., tuple[str, dict[str, Any]]]:
    """Wraps a parser so that it returns the name of its command, and its arguments by name."""

    @functools.wraps(parser)
    def read(*positional: Any, **options: Any) -> tuple[str, dict[str, Any]]:
        found = inspect.signature(parser).bind(*positional, **options)
        found.apply_defaults()
        return name, found.arguments

    return read


def _listed() -> str:
    """Lists every recipe with the first line of its docstring, without importing it."""
    paths = sorted(RECIPES.glob("[!_]*.py"))
    first = [(ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in paths]
    return "\n\n".join(["Recipes:", *(f"{path.stem}: {line}" for path, line in zip(paths, first, strict=True))])


def _train(name: str, options: list[str], prog: str) -> int:
    recipe = _load(name, options, prog)
    from jtl.train.checkpoint.identity import AnotherRun

    with _mistakes(FileNotFoundError, FileExistsError, AnotherRun):
        results = recipe.train()
    settings = f" for the recipe's own settings, but run with {shlex.join(options)}" if options else ""
    for claim in results.get("failed", ()):
        print(f"jtl: not as claimed{settings}: {claim}", file=sys.stderr)
    return 1 if results.get("failed") else 0


def _recipe(words: list[str]) -> Any:
    """Runs a recipe by its name and options, and returns its result; the sweep reports errors of the training."""
    return _load(words[0], words[1:], f"jtl train {words[0]}").train()


def _told(run: Callable[..., int]) -> Callable[..., int]:
    """Wraps a command so that its errors are reported as the user's mistakes."""

    def command(**values: Any) -> int:
        with _mistakes(ValueError, OSError):
            return run(**values)

    return command


def _evaluate(run: Path, data: Path | None, recipe: Path | None, **columns: str | None) -> int:
    with _mistakes(ValueError, OSError):
        folder = actions.saved(run)
    if folder is not None:
        return _told(actions.evaluate)(folder=folder, data=data, **columns)
    for name, value in columns.items() if data is None else ():
        if value is not None:
            raise Mistake(f"--{name} {value!r} is a column of DATA: without DATA a recipe's own test set is used")
    made, variables, step = _restore(run, recipe)
    from jtl.pretrained.folded import unadvised

    if data is not None:
        network = _classifier(made)
        from jtl.command import recipe_network

        with _mistakes(ValueError, OSError):
            actions.told(recipe_network.judge(network, variables, data, **columns))
        return 0
    with _mistakes(FileNotFoundError), unadvised():
        found = made.evaluate(variables)
    print(f"{run}, step {step}: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))
    return 0


def _predict(
    run: Path,
    inputs: tuple[str, ...],
    top: int | None,
    recipe: Path | None,
    csv: Path | None,
    text: str | None,
    file: str | None,
) -> int:
    if not inputs:
        raise Mistake("nothing to look at; give at least one file or text: jtl predict RUN INPUT...")
    if top is not None and top < 1:
        raise Mistake(f"--top {top}: name at least one class")
    with _mistakes(ValueError, OSError):
        folder = actions.saved(run)
    if folder is not None:
        return _told(actions.predict)(folder=folder, inputs=inputs, top=top, csv=csv, text=text, file=file)
    if csv is not None or file is not None:
        raise Mistake(f"--{'file' if csv is None else 'csv'} is for {OWN}")
    made, variables, _ = _restore(run, recipe)
    network = _classifier(made)
    if text is not None and not network.texts:
        raise Mistake(f"--text {text!r} is a column of texts, and the recipe's network takes files, each by its name")
    with _mistakes(ValueError, OSError):
        named = texts(inputs, "text" if text is None else text) if network.texts else files(inputs)
        from jtl.command import recipe_network, scores

        found = scores.shares(recipe_network.logits(network, variables, named))
    actions.ranked(named, found, network.classes, 3 if top is None else top)
    return 0


def _export(run: Path, out: Path | None, recipe: Path | None, format: Any) -> int:
    with _mistakes(ValueError, OSError):
        folder = actions.saved(run)
    out = run.expanduser() / f"export-{format}" if out is None else out
    if folder is not None:
        return _told(actions.export)(folder=folder, out=out, format=format)
    made, variables, _ = _restore(run, recipe)
    network = _classifier(made)
    from jtl.command import recipe_network

    with _mistakes(ValueError, OSError):
        recipe_network.export(network, variables, out, format)
    print(f"{out}: written for {format}")
    return 0


def _classifier(recipe: Any) -> Any:
    """Returns the recipe's network, whose classes have names."""
    from jtl.pretrained.folded import unadvised

    with _mistakes(FileNotFoundError), unadvised():
        network = recipe.network()
    if not network.classes:
        raise Mistake("this recipe learns classes that are new in each task, so its network has none of its own")
    return network


def _describe(name: str, options: list[str]) -> int:
    from jtl.report.parameters import describe

    recipe = _load(name, options, f"jtl describe {name}")
    with _mistakes(FileNotFoundError):
        network = recipe.network()
    (params, stats), rate = network.variables, network.learning_rate
    print(describe(params, network.trainable, learning_rate=rate, stats=stats))
    return 0


def _models(pattern: str) -> int:
    from jtl.pretrained import catalogue

    with _mistakes(ValueError):
        for line in catalogue.table(catalogue.lines(pattern)):
            print(line, flush=True)
    return 0


def _inspect(file: Path, rows: int, within: str | None, prefix: str) -> int:
    from jtl.pretrained.inspect import inspect

    with _mistakes(ValueError, OSError):
        found = inspect(file, rows, within=within, prefix=prefix)
    print(found)
    return 0


def _restore(checkpoint: Path, code: Path | None = None) -> tuple[Any, Any, int]:
    """Returns a run's recipe, the variables of its best checkpoint (the newest if none was scored), and its step.

    A recipe file that the checkpoint names is not run, because somebody else may have written it; the user must name it
    as `code`.
    """
    from jtl.command.runs import refuse_no_run
    from jtl.command.saved_network import chosen
    from jtl.train import Checkpoints

    with _mistakes(FileNotFoundError, ValueError):
        refuse_no_run(checkpoint)
        saved = Checkpoints(checkpoint)
        step = "newest" if saved.best() is None else "best"
        words = shlex.split(saved.about(step=step)["recipe"])
        if words[:2] != ["jtl", "train"] or len(words) < 3:
            if code is None:
                raise Mistake(
                    f"the checkpoint in {str(checkpoint)!r} was not written by a recipe, so jtl does not know its"
                    " network, classes and preprocessing: train with jtl.Checkpoints(folder, network=loaded), name the"
                    " recipe's file, --recipe FILE.py, or load it in Python: jtl.Checkpoints(folder).variables()"
                )
            words = ["jtl", "train", str(code)]
        if code is None and words[2].endswith(".py"):
            raise Mistake(
                f"the checkpoint in {str(checkpoint)!r} names the recipe file {words[2]!r}, whose code is run only if"
                f" you name it: add --recipe {shlex.quote(words[2])}"
            )
        name = words[2] if code is None else str(code)
        if code is not None and not name.endswith(".py"):
            raise Mistake(f"--recipe {name!r}: give the path of a .py file")
        variables = saved.variables(step=step)
        print(f"{checkpoint}: {chosen(saved)}", file=sys.stderr)
        step = saved.about(step=step)["step"]
    return _load(name, words[3:], shlex.join(["jtl", "train", name])), variables, step


def _load(name: str, options: list[str], prog: str) -> Any:
    """Loads a recipe, with the options of the command in place of its defaults."""
    module = _module(name)
    kind = getattr(module, "Recipe", None)
    if kind is None:
        raise Mistake(f"{name} defines no class Recipe; see the files in jtl/recipes")
    with _mistakes(ValueError):
        description = (module.__doc__ or "").strip()
        made = tyro.cli(kind, args=options, prog=prog, description=description, config=(tyro.conf.SuppressFixed,))
        return expanded(made)


def _module(name: str) -> Any:
    import importlib
    import importlib.util

    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise Mistake(f"the recipe file {name!r} does not exist")
        own = f"recipe {path.stem}"  # cannot be another module's name: a recipe may be in random.py
        spec = importlib.util.spec_from_file_location(own, path)
        if spec is None or spec.loader is None:
            raise Mistake(f"Python cannot load {name!r}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[own] = module
        spec.loader.exec_module(module)
        return module
    known = sorted(path.stem for path in RECIPES.glob("[!_]*.py"))
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise Mistake(f"no recipe {name!r}; {hint}there are {', '.join(known)}, or give the path of a .py file")
    return importlib.import_module(f"jtl.recipes.{name}")


@contextmanager
def _mistakes(*kinds: type[Exception]) -> Any:
    """Turns errors that the user's input explains into a `Mistake`; all others keep their traceback."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:  # all kinds, because `_explained` imports its kinds only after an error
        from jtl.command.device import out_of_memory, smaller

        if out_of_memory(error):
            raise Mistake(smaller(error)) from error
        if not isinstance(error, (*kinds, *_explained())):
            raise
        raise Mistake(str(error)) from error


def _explained() -> tuple[type[Exception], ...]:
    """Returns the errors of any command whose messages say what the user can do."""
    from jtl.extras import NotInstalled
    from jtl.train import NonFiniteLoss
    from jtl.train.checkpoint.claim import NotClaimed
    from jtl.train.checkpoint.manifest import NotSaved

    return NotInstalled, NonFiniteLoss, NotClaimed, NotSaved
