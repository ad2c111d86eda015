"""The type of a question (place, number, person …): MiniLM against a bag of words, on a few hundred examples.

    jtl train question_type --data FOLDER        (or JTL_DATA; it holds text/trec)
    jtl eval runs/question_type/1000/checkpoints
    jtl predict runs/question_type/1000/checkpoints "Who wrote this?" questions.txt

Expect these accuracies in percent on the 500 test questions, for one draw of the examples (jax 0.10.2,
three minutes on one core):

    examples   bag of words   feature extraction   fine-tuning
    200        66.8           76.6                 92.0
    1000       81.4           86.6                 93.8

Li and Roth, Learning Question Classifiers, 2002.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jtl.recipes.parts.texts import Texts


@dataclass(frozen=True)
class Recipe(Texts):
    """TREC's questions in six coarse classes.

    Args:
      out: the folder for all output, with one folder per number of examples.
      length: the number of tokens of a text; longer texts are cut.
    """

    name: ClassVar[str] = "question_type"
    folder: ClassVar[str] = "trec"
    classes: ClassVar[tuple[str, ...]] = ("description", "entity", "abbreviation", "person", "place", "number")

    out: Path = Path("runs/question_type")
    length: int = 24
