"""Removes from tensor names what module wrappers add: `torch.compile`, FSDP, DataParallel, a trainer's module."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from jtl.pretrained.recognise import common_prefix
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


def without_prefix(tensors: Tensors, table: Sequence[Rule], source: Any) -> Tensors:
    """Returns the tensors as `unwrapped` does, and without a prefix of all names if more then match the table.

    Such a prefix, as "model." or "net.", is the name of the network within the module that was saved. A warning in the
    log "jtl.load" names it.

    Args:
      tensors: the tensors of a file.
      table: the rules of the expected names.
      source: what is loaded, for the message.

    Raises:
      WeightNameError: if two tensors would get the same name.
    """
    tensors = unwrapped(tensors, table)
    prefix = common_prefix(tensors, table)
    if not prefix:
        return tensors
    logging.getLogger("jtl.load").warning("%s: all names begin with %s, which is left out", source, show(prefix))
    return unwrapped(tensors.under(prefix), table)


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
