"""Entity F1 against seqeval, in the mode that follows the CoNLL evaluation."""

import numpy as np
import pytest

from jtl import metrics

seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is the reference; the parity extra installs it")

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_precision_recall_and_f1_are_seqevals(share):
    metric = metrics.entity_f1(TAGS)
    for seed in range(10):
        draw = np.random.default_rng(seed)
        true, other = draw.integers(0, 5, (2, 6, 9))
        predicted = np.where(draw.random((6, 9)) < share, true, other)
        found = metric.finish(metric.sums(np.eye(5)[predicted], true, None))
        rows = [[[TAGS[i] for i in row] for row in labels] for labels in (true, predicted)]
        for name in ("precision", "recall", "f1"):
            np.testing.assert_allclose(found[name], getattr(seqeval, f"{name}_score")(*rows), rtol=1e-6)
