"""Removes from tensor names what module wrappers add: `torch.compile`, FSDP, DataParallel."""

import re
from collections.abc import Sequence

from jtl.weights.formats.errors import WeightNameError, show
from jtl.weights.formats.lazy_tensors import Tensors
from jtl.weights.mapping.rules import Rule, Rules

_NEVER_OWN = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MODULE = re.compile(r"(?:(?<=\.)|^)module\.")


def unwrapped(tensors: Tensors, table: Sequence[Rule] = ()) -> Tensors:
    """Returns the tensors under the names that they had before their modules were wrapped.

    `_orig_mod.` (torch.compile), `_fsdp_wrapped_module.` and `_checkpoint_wrapped_module.` are always removed.
    `module.` (DataParallel) may be a module's own name, so it is removed only if more names then match the table.

    Args:
      tensors: the tensors of a file.
      table: the rules of the expected names.

    Raises:
      WeightNameError: if two tensors would get the same name.
    """
    tensors = _without(tensors, _NEVER_OWN)
    if not table or not any(map(_MODULE.search, tensors)):
        return tensors
    rules = Rules(table)
    plain = {_MODULE.sub("", name) for name in tensors}
    if len(plain) < len(tensors) or rules.known(plain) <= rules.known(tensors):
        return tensors
    return _without(tensors, _MODULE)


def _without(tensors: Tensors, words: re.Pattern[str]) -> Tensors:
    if not any(map(words.search, tensors)):
        return tensors
    names: dict[str, str] = {}
    for name in tensors:
        short = words.sub("", name)
        if short in names:
            raise WeightNameError(
                f"{show(names[short])} and {show(name)} are both {show(short)} without the names of wrappers; "
                "leave one of them out of the file"
            )
        names[short] = name
    return Tensors(tensors.path, {short: tensors.entry(name) for short, name in names.items()}, tensors.metadata)
