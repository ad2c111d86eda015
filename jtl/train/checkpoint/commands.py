"""Whether two commands, as checkpoints store them, start the same run."""

import shlex

NAMING = 3
"""How many words name a run, as in `jtl finetune photos`; later options are compared by their effect."""


def same_command(old: str, new: str) -> bool:
    """Whether two commands have the same first three words, as a shell reads them.

    Args:
      old: the command of a checkpoint; older versions stored a path with a space unquoted.
      new: the command of the run that would resume, quoted.

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
    except ValueError:  # an apostrophe in an unquoted text
        return command.split()
