"""Exact match and F1 of answers, by SQuAD's rules."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """The share of right answers, and the mean F1 of their words; each is compared with the best-matching true answer.

    Texts are compared in lower case, without punctuation and English articles.

    Args:
      predicted: one text per question; "" for no answer.
      answers: the true answers of each question; an empty list if it has no answer, for which only "" is right.

    Returns:
      {"exact", "f1"}, in [0, 1].

    Raises:
      ValueError: for different numbers of predictions and questions, or none.

    Example:
      >>> import jtl
      >>> jtl.metrics.squad(["The Nile", "red car"], [["Nile river", "Nile"], ["a car"]])["exact"]
      0.5

    Rajpurkar et al., SQuAD, 2016, arXiv 1606.05250.
    """
    if len(predicted) != len(answers) or not answers:
        raise ValueError(f"{len(predicted)} predictions for {len(answers)} questions: give one for each")
    pairs = [(text, [*own] or [""]) for text, own in zip(predicted, answers, strict=True)]
    exact = [max(float(_plain(text) == _plain(a)) for a in own) for text, own in pairs]
    f1 = [max(_f1(_plain(text).split(), _plain(a).split()) for a in own) for text, own in pairs]
    return {"exact": sum(exact) / len(exact), "f1": sum(f1) / len(f1)}


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(words: list[str], wanted: list[str]) -> float:
    if not words or not wanted:
        return float(words == wanted)
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted))
