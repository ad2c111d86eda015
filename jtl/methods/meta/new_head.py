"""A head that is initialised for each task, from which fine-tuning a pre-trained network on few examples starts."""

from typing import Any

from jtl.methods.meta.inner_loop import Adapt, start_of
from jtl.methods.meta.prototypes import head_of
from jtl.model import Model, Variables
from jtl.objective import NONE, complete
from jtl.typing import Batch, Key, Params, Stats


def new_head(net: Model) -> Adapt:
    """The network with a head that is drawn for each task, because its classes are new.

    Gradient steps follow it. On a network trained on other classes, the linear probe is
    `chained(new_head(net), adapt_to(inner, rule, steps=100, adapted=select("head/.*")))`, and Baseline++ is the same
    with `heads.cosine(way, temperature=0.5)`, which is the scale 2 of the authors' code.

    Args:
      net: `jtl.network(backbone=..., head=...)`, whose head has as many classes as a task.

    Returns:
      An `Adapt`; its `init` drops a given head, which may have other classes.

    Raises:
      ValueError: for a network that does not have exactly one head.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.cosine(5, temperature=0.5))
      >>> probe = jtl.adapt_to(jtl.finetune(net), jtl.fixed_rate(0.1), steps=100, adapted=jtl.select("head/.*"))
      >>> baseline = jtl.learners.chained(jtl.learners.new_head(net), probe)

    Chen et al., A Closer Look at Few-shot Classification (Baseline, Baseline++), 2019, arXiv 1904.04232.
    """
    head = head_of(net)

    def init(key: Key, support: Batch, given: Variables = NONE) -> Variables:
        kept = Variables(*({name: part for name, part in tree.items() if name != head} for tree in given))
        return complete(net.init, key, support["x"], kept)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        del step
        made = init(key, support, Variables(start_of(params), stats))
        return made.params, made.stats

    return Adapt(run, init)
