"""One message with all mismatches between a file and a model, and a way to load the file nevertheless."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from jtl.weights.formats.errors import show

NEAREST_FOR = 8  # so many names in an error get a nearest match; a search for more takes quadratic time
FEW = 8  # if more regexes are needed, it is another network
DEEP = 12  # branches considered of a name, because a file may hold names of any length
HINTS = {
    "head/": "a head for other classes than the file's is re-initialised by reinit=('head/.*',)",
    "backbone/position:": "positions are for one size of images; arch= says which it was, image= which it is to be",
}
# A speaker classifier has a projection too, of another size, and a layer whose name is a prefix of the encoder's names.
XVECTOR = r"(?:projector|tdnn|classifier|objective|feature_extractor)\..*"

# The scales of 4-bit and 8-bit weights, as named by FP8, bitsandbytes and GPTQ; CLIP's logit_scale is not one.
SCALES = r".*(?<!logit)_scale(?:_inv)?|(?:.*\.)?(?:SCB|(?:nested_)?(?:absmax|quant_map)|quant_state\..*|qzeros|scales)"


class Mismatch(NamedTuple):
    """The mismatch between a file and a model.

    Args:
      missing: paths of the model that no tensor of the file provides.
      given: paths that a tensor provides.
      unexpected: names of the file that no parameter takes, and how to print them.
      used: names of the file that a parameter takes.
      problems: one line for each tensor that does not match its parameter.
    """

    missing: Sequence[str]
    given: Collection[str]
    unexpected: Mapping[str, str]
    used: Collection[str]
    problems: Sequence[str]

    def message(self, held: Sequence[str], reinit: Sequence[str], unused: Sequence[str]) -> str:
        """The whole message.

        Args:
          held: all names of the file.
          reinit: the regexes that were given.
          unused: the regexes that were given.
        """
        lines = ["the file and the model do not fit:"]
        if self.problems:
            lines += [f"{len(self.problems)} do not match:", *self.problems]
            lines += [hint for start, hint in HINTS.items() if any(p.startswith(f"  {start}") for p in self.problems)]
        shown = list(self.unexpected.values())
        for names, others, what in (
            (self.missing, shown or held, "parameters are missing from the file (or ask for them by reinit=)"),
            (shown, self.missing, "tensors of the file have no parameter (or leave them by unused=)"),
        ):
            if names:
                lines.append(f"{len(names)} {what}:")
                lines += [f"  {name}{near(name, others) if i < NEAREST_FOR else ''}" for i, name in enumerate(names)]
        return "\n".join([*lines, *self._way_out(reinit, unused)])

    def _way_out(self, reinit: Sequence[str], unused: Sequence[str]) -> list[str]:
        if "tdnn.0.kernel.weight" in self.unexpected:
            return [
                f"x-vectors of speakers are not read, only the encoder; to load the rest alone: unused={(XVECTOR,)!r}"
            ]
        scale = next((name for name in self.unexpected if re.fullmatch(SCALES, name)), None)
        if scale is not None:
            return [f"{show(scale)} scales quantised weights, which are not read: give those from before"]
        drawn, left = branches(self.missing, self.given, "/"), branches(self.unexpected, self.used, ".")
        if self.problems or len(self.missing) > len(self.given) or len(drawn) + len(left) > FEW:
            return []
        asked = {"reinit": (*reinit, *drawn), "unused": (*unused, *left)}
        said = ", ".join(f"{option}={patterns!r}" for option, patterns in asked.items() if patterns)
        return [f"to load the rest alone: {said}"]


def branches(names: Iterable[str], others: Iterable[str], separator: str) -> list[str]:
    """Regexes that match all names and none of the others: the largest branches without any of the others."""
    taken = {branch for other in others for branch in _above(other, separator)}
    free = (next((b for b in _above(name, separator) if b not in taken), None) for name in names)
    found = (re.escape(name) if b is None else f"{re.escape(b)}.*" for name, b in zip(names, free, strict=True))
    return list(dict.fromkeys(found))


def _above(name: str, separator: str) -> list[str]:
    """The branches that contain a name, the largest first."""
    parts = name.split(separator, DEEP)
    return [separator.join(parts[:i]) + separator for i in range(1, len(parts))]


def near(name: str, among: Sequence[str]) -> str:
    """The text to print after a missing name: the names like it."""
    found = difflib.get_close_matches(name, among, n=2, cutoff=0.5)
    return f"; nearest: {', '.join(map(show, found))}" if found else ""
