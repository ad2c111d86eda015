"""The sentiment of a sentence of a film review: MiniLM against a bag of words, on a few hundred examples.

    jtl train sentiment --data FOLDER        (or JTL_DATA; it holds text/sst2)
    jtl eval runs/sentiment/1000/checkpoints
    jtl predict runs/sentiment/1000/checkpoints "a quiet triumph" reviews.txt

Expect these accuracies in percent on the 1,821 test sentences, for one draw of the examples (jax 0.10.2,
eight minutes on one core):

    examples   bag of words   feature extraction   fine-tuning
    200        64.5           74.8                 79.0
    1000       72.4           79.7                 85.4

Socher et al., Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank, 2013; Kumar et al.,
Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, 2022, arXiv 2202.10054 (fine-tuning
from the head of feature extraction).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jtl.recipes.parts.texts import Texts


@dataclass(frozen=True)
class Recipe(Texts):
    """The Stanford Sentiment Treebank, whole sentences, two classes.

    Args:
      out: the folder for all output, with one folder per number of examples.
    """

    name: ClassVar[str] = "sentiment"
    folder: ClassVar[str] = "sst2"
    classes: ClassVar[tuple[str, ...]] = ("negative", "positive")

    out: Path = Path("runs/sentiment")
