"""An option of an alignment reaches its loss: each is given another value than the default, in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import alignments
from jtl.methods.adapt.afn import afn_loss
from jtl.methods.adapt.bnm import bnm_loss
from jtl.methods.adapt.bsp import largest
from jtl.methods.adapt.coral import coral_loss
from jtl.methods.adapt.daregram import daregram_loss
from jtl.methods.adapt.entropy import information_loss
from jtl.methods.adapt.lmmd import lmmd_loss
from jtl.methods.adapt.mcc import mcc_loss
from jtl.methods.adapt.mmd import mmd_loss
from jtl.methods.adapt.rsd import rsd_loss
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.metrics.certainty import entropy

WIDE = {"scales": (0.25, 3.0)}
GRAM = {"angle": 2.0, "scale": 0.5, "threshold": 0.5}
CASES = {
    "afn": ("last", {"growth": 0.5}, lambda f, z, y: afn_loss(jnp.concatenate(f), growth=0.5).mean()),
    "bnm": (None, {"view": "source"}, lambda f, z, y: bnm_loss(z[0])),
    "bsp": ("last", {"k": 2}, lambda f, z, y: largest(f[0], k=2) + largest(f[1], k=2)),
    "coral": ("last", {}, lambda f, z, y: coral_loss(*f)),
    "daregram": ("last", GRAM, lambda f, z, y: daregram_loss(*f, **GRAM)),
    "entropy": (None, {"view": "source"}, lambda f, z, y: entropy(z[0]).mean()),
    "information_maximisation": (None, {"view": "source"}, lambda f, z, y: information_loss(z[0])),
    "lmmd": ("last", WIDE, lambda f, z, y: lmmd_loss(*f, y, z[1], **WIDE)),
    "mcc": (None, {"view": "source", "temperature": 0.5}, lambda f, z, y: mcc_loss(z[0], temperature=0.5)),
    "mmd": ("last", {"estimator": "biased", **WIDE}, lambda f, z, y: mmd_loss(*f, estimator="biased", **WIDE)),
    "rsd": ("last", {"mismatch": 2.0}, lambda f, z, y: rsd_loss(*f, mismatch=2.0)),
}


@pytest.fixture(scope="module")
def found():
    """The term of each alignment, its loss under the same options, and the term under the default ones."""
    draw = np.random.default_rng(0)
    f, g, z = ([draw.normal(size=(n, w)).astype(np.float32) + i for i, n in enumerate((6, 5))] for w in (8, 8, 3))
    y = np.arange(6) % 3
    views = {
        n: View({"pooled": f[i], "last": g[i]}, jnp.asarray(z[i]), None, (y, None)[i], None, {})
        for i, n in enumerate(("source", "target"))
    }

    def terms(views):
        run = lambda alignment: total(alignment({}, {}, views, None, 0)[0])  # noqa: E731
        z = [view.output for view in views.values()]
        return {
            name: (
                run(getattr(alignments, name)(1.0, **({"feature": feature} if feature else {}), **options)),
                loss([view.features["last"] for view in views.values()], z, y),
                run(getattr(alignments, name)(1.0)),
            )
            for name, (feature, options, loss) in CASES.items()
        }

    return jax.jit(terms)(views)


@pytest.mark.parametrize("name", CASES)
def test_options_reach_the_loss(found, name):
    ours, wanted, default = found[name]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    assert abs(float(wanted) - float(default)) > 1e-3
