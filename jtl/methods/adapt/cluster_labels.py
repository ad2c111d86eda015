"""Labels of a target by spherical k-means from the source's class centres, for CAN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jtl.checked import whole, within
from jtl.methods.adapt.own_norms import NAME as OWN
from jtl.methods.adapt.own_norms import of_domain
from jtl.methods.adapt.source_free.rows import refuse_missing
from jtl.methods.near import near
from jtl.methods.terms import row_features
from jtl.methods.views import View
from jtl.model import Model, Variables
from jtl.networks import called


def cluster_labels(
    net: Model,
    source: Any,
    target: Any,
    *,
    distance: float = 0.05,
    least_rows: int = 3,
    iterations: int = 100,
    ignore: int | None = None,
    feature: str = "pooled",
    name: str = "can",
) -> Callable[[Any], Any]:
    """A function of a state for `Refresh`, which replaces CAN's labels of the target by those of the current network.

    The labels are those of `spherical_clusters`, with a centre for each class of the source,
    `c_k = Σ_i 1[y_i = k] f_i / ‖f_i‖`. Then a row is left out, with the label -1, if it is not closer than `distance`
    to its centre, `(1 − cos) / 2 < D`, or if its class has fewer such rows than `least_rows`.

    Args:
      net: the network of `can`.
      source: batches `{"x", "y", "mask"}`; `len(source)` batches are one epoch.
      target: batches `{"x", "y", "mask"}`, y the row of each example; `len(target)` batches must hold every row. Both
        hold inputs as the network reads them, without augmentation.
      distance: D, in [0, 1]; the authors use 0.05 on Office-31, and 1, which leaves out next to nothing, on VisDA-2017.
      least_rows: the least number of rows of a class; 3 in the authors' code.
      iterations: the most rounds of k-means.
      ignore: as in `adapt`: rows of the source with this label give no centre.
      feature: the name of the backbone's feature, [batch, width].
      name: of the labels in the statistics, as that of `can`.

    Raises:
      ValueError: for numbers out of range; when run, for a missing feature, if a row of the target is in none of the
        batches, or the source has no label that is neither negative nor the one to ignore.

    Example:
      >>> import numpy as np, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> source = jtl.data.arrays(np.ones((6, 5), np.float32), np.arange(6) % 3, batch_size=3)
      >>> target = jtl.data.arrays(np.ones((9, 5), np.float32), np.arange(9), batch_size=3)
      >>> refresh = jtl.Refresh(jtl.alignments.cluster_labels(net, source, target), every=len(target))

    Kang et al., Contrastive Adaptation Network for Unsupervised Domain Adaptation, 2019, arXiv 1901.00976, section 3.4.
    """
    within("[0, 1]", distance=distance)
    whole(1, least_rows=least_rows, iterations=iterations)

    @jax.jit
    def look(variables: Variables, x: Any, mask: Any) -> tuple[Any, Any]:
        out, _ = called(net, variables, x, train=False)
        return row_features({"target": View(out.features, out.output, x, None, mask, {})}, "target", feature, name)

    def epoch(state: Any, domain: str, data: Any) -> tuple[np.ndarray, np.ndarray]:
        variables = Variables(state.params, {n: part for n, part in state.stats.items() if n != name})
        variables = of_domain(variables, domain) if domain in state.params.get(OWN, {}) else variables
        put, found, ys = near(variables), [], []
        for i in range(len(data)):
            batch = data[i]
            f, kept = (np.asarray(a) for a in look(variables, *put((batch["x"], batch.get("mask")))))
            found.append(f[kept])
            ys.append(np.asarray(batch["y"])[kept])
        return np.concatenate(found), np.concatenate(ys)

    def run(state: Any) -> Any:
        (fs, y), (ft, places) = (epoch(state, of, data) for of, data in (("source", source), ("target", target)))
        refuse_missing(len(state.stats[name]), places)
        classes = np.setdiff1d(y[y >= 0], [] if ignore is None else [ignore])
        if not len(classes):
            raise ValueError(
                f"{name}: the source has no labels that are neither negative nor ignore={ignore}, and a cluster starts"
                " from some"
            )
        units = _unit(fs)
        centres = np.stack([units[y == c].sum(0) for c in classes])
        clusters, apart = spherical_clusters(ft, centres, iterations)
        clusters[apart >= distance] = -1
        for k in range(len(classes)):
            if (clusters == k).sum() < least_rows:
                clusters[clusters == k] = -1
        labels = np.full(len(state.stats[name]), -1, np.int32)
        labels[places] = np.where(clusters >= 0, classes[clusters], -1)
        return state._replace(stats={**state.stats, name: jnp.asarray(labels)})

    return run


def spherical_clusters(
    features: Float[np.ndarray, "rows dim"], centres: Float[np.ndarray, "clusters dim"], iterations: int = 100
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Spherical k-means from given centres: each row's cluster, and its distance `(1 − cos) / 2` from the centre.

    A round gives each row the nearest centre by cosine, and then makes each centre `Σ f_i / ‖f_i‖` of its rows. A
    cluster without rows gets back the centre it was given. It ends if no row changes its cluster.

    Args:
      features: f.
      centres: the first centres, of any length.
      iterations: the most rounds.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.adapt.cluster_labels import spherical_clusters
      >>> clusters, apart = spherical_clusters(np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), np.eye(2))
      >>> clusters.tolist(), apart.tolist()
      ([0, 1, 1], [0.0, 0.0, 0.0])
    """
    units, first = _unit(features), _unit(centres)
    now, labels = first, np.full(len(units), -1)
    for _ in range(iterations):
        before, labels = labels, (units @ now.T).argmax(1)
        if (labels == before).all():
            break
        sums = np.zeros_like(first)
        np.add.at(sums, labels, units)
        there = np.bincount(labels, minlength=len(first)) > 0
        now = np.where(there[:, None], _unit(sums), first)
    return labels, (1 - (units * now[labels]).sum(1)) / 2


def _unit(f: np.ndarray) -> np.ndarray:
    f = np.asarray(f, np.float64)
    return f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
