import numpy as np
import pytest
from alignment_references import domains, same_value_and_gradient

from jtl.methods.adapt.jmmd import jmmd, jmmd_loss

SCALES = (0.5, 2.0)


def by_pairs(layers, p, bandwidths, n, self_pairs):
    """The definition, one pair at a time; source rows first."""

    def k(i, j):
        found = np.exp(-((p[i] - p[j]) ** 2).sum() / 1.6928)
        for f, m in zip(layers, bandwidths, strict=True):
            found *= sum(np.exp(-((f[i] - f[j]) ** 2).sum() / (2 * alpha * m)) for alpha in SCALES)
        return found

    def within(rows):
        return np.mean([k(i, j) for i in rows for j in rows if self_pairs or i != j])

    source, target = range(n), range(n, len(p))
    return within(source) + within(target) - 2 * np.mean([k(i, j) for i in source for j in target])


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_value_and_gradient_are_those_of_all_pairs(estimator):
    fs, ft, ms, mt = domains()
    gs, gt, _, _ = domains(seed=1, width=2)
    zs, zt, _, _ = domains(seed=2, width=3)

    def mean_distance(*f):
        f = np.concatenate(f)
        return np.mean([((a - b) ** 2).sum() for a in f for b in f])

    bandwidths = [mean_distance(fs[ms], ft[mt]), mean_distance(gs[ms], gt[mt])]  # constants for the gradient

    def expected(*arrays):
        f, g, z = (np.concatenate([a[ms], b[mt]]) for a, b in zip(arrays[::2], arrays[1::2], strict=True))
        e = np.exp(z)
        return by_pairs([f, g], e / e.sum(1, keepdims=True), bandwidths, ms.sum(), estimator == "biased")

    def ours(fs, ft, gs, gt, zs, zt):
        return jmmd_loss([(fs, ft), (gs, gt)], (zs, zt), ms, mt, estimator=estimator, scales=SCALES)

    same_value_and_gradient(ours, expected, fs, ft, gs, gt, zs, zt)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: jmmd(estimator="linear"), "estimator='linear': choose 'unbiased' or 'biased'"),
        (lambda: jmmd(sigma=0.0), r"sigma=0\.0"),
        (lambda: jmmd(scales=()), r"scales=\(\)"),
        (lambda: jmmd(features=()), r"features=\(\)"),
        (lambda: jmmd(features="pooled"), "features='pooled': give a sequence"),
    ],
    ids=["estimator", "sigma", "scales", "none", "a name"],
)
def test_bad_input_raises(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
