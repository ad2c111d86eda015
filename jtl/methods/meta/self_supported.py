"""Fine-tuning a learner on its support set alone: the set is the support, and its augmentation the queries."""

from collections.abc import Callable
from typing import Any

from jtl import rng
from jtl.methods.meta.inner_loop import Adapt
from jtl.model import Variables
from jtl.objective import NONE, Objective, as_objective
from jtl.typing import Aux, Batch, Key, Params, Stats


def self_supported(adapt: Adapt, judge: Objective | Callable, augment: Callable[[Key, Any], Any]) -> Objective:
    """The objective `L_{a(S)}(adapt(θ, S))`: a learner is judged on its augmented support set a(S).

    As an inner objective it fine-tunes a backbone at test time. This gives P>M>F: a pre-trained backbone, meta-training
    with `meta(prototypes(net), judge)`, and at test time `chained(adapt_to(self_supported(prototypes(net), judge,
    augment), rule, steps=50), prototypes(net))`.

    Args:
      adapt: the way from the support set to the head, such as `prototypes(net)`.
      judge: the objective on the augmented set, with the labels of the support set.
      augment: `augment(key, x) -> x`, like those of `jtl.data.augment`, with a new random draw at each inner step.

    Returns:
      An objective on support sets.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=jtl.heads.linear(5))
      >>> learner, judge = jtl.learners.prototypes(net), jtl.finetune(net)
      >>> tune = jtl.learners.self_supported(learner, judge, jtl.data.augment.flip())
      >>> adapt = jtl.learners.chained(jtl.adapt_to(tune, jtl.fixed_rate(0.01), steps=50, order=1), learner)

    Hu et al., Pushing the Limits of Simple Pipelines for Few-Shot Learning, 2022, arXiv 2204.07305.
    """
    judge = as_objective(judge)

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Any, Aux]:
        fast, after = adapt(params, stats, support, rng.stream(key, "support"), step)
        query = {**support, "x": augment(rng.stream(key, "augment"), support["x"])}
        return judge(fast, after, query, rng.stream(key, "query"), step)

    def init(key: Key, support: Batch, given: Variables = NONE) -> Variables:
        return adapt.init(key, support, given)

    return Objective(run, init)
