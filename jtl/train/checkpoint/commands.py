"""Whether two texts of commands, as checkpoints keep them, begin the same run."""

import shlex

NAMING = 3
"""Words that name a run, as `jtl finetune photos`; the options behind them are compared by what they make."""


def same_command(old: str, new: str) -> bool:
    """Whether two commands have the same first three words, as a shell reads them.

    Args:
      old: of a checkpoint; before commands were quoted, a path with a space stood in it as it is.
      new: of the run that would resume, quoted.

    Example:
      >>> same_command("jtl finetune my photos", "jtl finetune 'my photos'")
      True
      >>> same_command("jtl finetune 'my photos'", "jtl finetune 'my sounds'")
      False
    """
    return _words(old)[:NAMING] == _words(new)[:NAMING] or " ".join(_words(new)) == old


def beginning(command: str) -> str:
    """The first three words of a command, for messages.

    Example:
      >>> beginning("jtl train 'my recipe.py' --steps 2")
      "jtl train 'my recipe.py'"
    """
    return shlex.join(_words(command)[:NAMING])


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an apostrophe in a text that is not quoted
        return command.split()
