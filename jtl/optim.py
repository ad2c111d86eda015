"""Additions to optax: learning rates by parameter path, layer decay, and the usual mask of weight decay."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array

from jtl.checked import integer, real, whole, within
from jtl.params import Table, flatten, match, unflatten
from jtl.typing import Params, Schedule, Tree


def scale(table: Table) -> optax.GradientTransformation:
    """Learning-rate groups: multiplies each parameter's update by the value of the first rule that matches it.

    Chain it behind an optimizer: `optax.chain(optax.adamw(1e-3), scale([("head/.*", 10.0), (".*", 1.0)]))` trains
    the head at 1e-2. Decoupled weight decay is part of the update and scales with it, as a rate would.

    Args:
      table: `(regex, factor)` over the trainable parameters' paths; a factor may also be a function of the step.

    Raises:
      ValueError: for a factor that is not a finite number of at least 0; at init, for parameters that no rule matches
        or rules that match no parameter (`jtl.params.match`).

    Example:
      >>> import jax.numpy as jnp, jtl, optax
      >>> params = {"body": jnp.zeros(1), "head": jnp.zeros(1)}
      >>> tx = optax.chain(optax.sgd(1.0), jtl.optim.scale([("head", 10.0), (".*", 1.0)]))
      >>> updates, _ = tx.update({"body": jnp.ones(1), "head": jnp.ones(1)}, tx.init(params), params)
      >>> updates["body"].tolist(), updates["head"].tolist()
      ([-1.0], [-10.0])
    """
    for pattern, factor in table:
        if callable(factor) or isinstance(factor, Tracer):
            continue
        if not (real(factor) and 0 <= factor < np.inf):
            raise ValueError(f"the factor of {pattern!r} is {factor!r}: give a number of at least 0, or a function")

    def init(params: Any) -> Any:
        match(table, params)
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def scaled(u, factor):
            return u * jnp.asarray(factor(state.count) if callable(factor) else factor, u.dtype)

        return jax.tree.map(scaled, updates, match(table, updates)), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def layer_decay(params: Params, order: list[str], rate: float) -> list[tuple[str, float]]:
    """Layer-wise rates: `rate^(L − l)` for layer l of L, the last one at 1.

    Args:
      params: the trainable parameters; every pattern of `order` must match at least one, and every parameter must be
        matched.
      order: patterns from the input to the output, such as `["backbone/stem/.*", "backbone/block1/.*", "head/.*"]`.
      rate: the factor between neighbouring layers, in (0, 1]; .65 to .75 for a ViT.

    Returns:
      A table for `scale`.

    Bao et al., BEiT, 2021, arXiv 2106.08254; Clark et al., ELECTRA, 2020, arXiv 2003.10555.

    Raises:
      ValueError: for a rate outside (0, 1], or patterns that do not cover the parameters.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> params = {"backbone": {"stem": jnp.zeros(2), "block1": jnp.zeros(2)}, "head": jnp.zeros(2)}
      >>> jtl.optim.layer_decay(params, ["backbone/stem", "backbone/block1", "head"], 0.5)
      [('backbone/stem', 0.25), ('backbone/block1', 0.5), ('head', 1.0)]
    """
    within("(0, 1]", rate=rate)
    table = [(pattern, rate ** (len(order) - 1 - i)) for i, pattern in enumerate(order)]
    match(table, params)
    return table


def layer_order(params: Params, top: str) -> list[str]:
    """The layers of a network for `layer_decay`, from input to output: the stem, each block, the heads.

    Blocks are `backbone/block<i>` or `backbone/stage<s>/block<i>`. Other parameters of a stage, such as its
    downsampling, belong to the stage's first block; all other parameters of the backbone, such as patch and position
    embeddings, belong to the stem; parameters outside the backbone belong to the last layer. This is how timm groups
    ViT, DeiT, Swin and BiT (`top="block"`) and ConvNeXt (`top="head"`); a ResNet has no top.

    Args:
      params: the trainable parameters of a network (`jtl.network`).
      top: the layer of `backbone/norm`, `backbone/top` and `backbone/final`, such as a ViT's last norm: "block", the
        last block, or "head".

    Returns:
      Disjoint patterns for `layer_decay`.

    Raises:
      ValueError: for a backbone without blocks of these names, or another `top`.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.resnet18(), head=jtl.heads.linear(3))
      >>> shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> order = jtl.optim.layer_order(shapes.params, "block")
      >>> len(order), order[1]
      (10, 'backbone/stage1/block1/.*')
    """
    if top not in ("block", "head"):
        raise ValueError(f"top={top!r}: the layer after the last block belongs to the 'block' or to the 'head'")
    paths = list(flatten(params))
    found = {m.groups() for m in (re.match(r"backbone/(?:stage(\d+)/)?block(\d+)/", path) for path in paths) if m}
    if not found:
        raise ValueError("the backbone has no 'block1' and no 'stage1/block1': give layer_decay an order of your own")
    blocks = sorted(found, key=lambda of: (int(of[0] or 0), int(of[1])))
    upper = r"backbone/(?:norm|top|final)/.*"
    there = any(re.fullmatch(upper, path) for path in paths)
    order = []
    for stage, block in blocks:
        parent = f"backbone/stage{stage}" if stage else "backbone"
        pattern = rf"{parent}/block{block}/.*"
        first = stage and block == min((b for s, b in blocks if s == stage), key=int)
        beside = rf"{parent}/(?!block\d).*"
        order.append(f"{pattern}|{beside}" if first and any(re.fullmatch(beside, p) for p in paths) else pattern)
    head = r"(?!backbone/).*"
    stem = r"backbone/(?!(?:stage\d+/|block\d+/|(?:norm|top|final)/)).*"
    if there and top == "block":
        order[-1] = f"{order[-1]}|{upper}"
    elif there:
        head = f"{head}|{upper}"
    layers = [stem, *order, head]
    return [layer for layer in layers if any(re.fullmatch(layer, path) for path in paths)]


def decayed(params: Params) -> Tree:
    """The usual mask for weight decay: matrices and kernels decay; biases, norms and scales do not.

    A leaf decays if it has at least two dimensions. Pass the function to optax: `optax.adamw(1e-3, mask=decayed)`.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.optim.decayed({"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)})
      {'kernel': True, 'bias': False}
    """
    return unflatten({path: jnp.ndim(leaf) > 1 for path, leaf in flatten(params).items()})


def annealed(learning_rate: float | Array, total_steps: int, gain: float = 10.0, power: float = 0.75) -> Schedule:
    """The annealed learning rate of DANN: `η₀ (1 + gain·p)^(−power)` with `p = step / total_steps`.

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818, section 5.2.

    Raises:
      ValueError: for a number of steps that is not an integer of at least 1, or another number that is negative or not
        finite.

    Example:
      >>> import jtl
      >>> rate = jtl.optim.annealed(0.01, 1000)
      >>> [round(float(rate(step)), 5) for step in (0, 1000)]
      [0.01, 0.00166]
    """
    within("[0, inf)", learning_rate=learning_rate, gain=gain, power=power)
    within("[1, inf)", total_steps=total_steps)

    def schedule(step: Any) -> Array:
        p = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
        return learning_rate * (1.0 + gain * p) ** -power

    return schedule


def warmup_cosine(learning_rate: float, total_steps: int, warmup: float = 0.1) -> Callable[[Any], Any]:
    """A linear rise over a share of the run, then a cosine decay to zero: the usual schedule for fine-tuning.

    Args:
      learning_rate: the peak.
      total_steps: the length of the run.
      warmup: the share of the run over which the rate rises, in [0, 1).

    Raises:
      ValueError: for a share outside [0, 1), a number of steps that is not an integer of at least 1, or a rate that is
        negative or not finite.

    Example:
      >>> import jtl
      >>> rate = jtl.optim.warmup_cosine(1.0, 100, warmup=0.1)
      >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 100)]
      [0.0, 0.5, 1.0, 0.0]
    """
    within("[0, inf)", learning_rate=learning_rate)
    within("[1, inf)", total_steps=total_steps)
    within("[0, 1)", warmup=warmup)
    rise = int(total_steps * warmup)
    return optax.warmup_cosine_decay_schedule(0.0 if rise else learning_rate, learning_rate, rise, total_steps)


def one_cycle(
    learning_rate: float, total_steps: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4
) -> Schedule:
    """One cycle: half a cosine from `η/start` up to the peak η, another down to `η/(start·end)` at the last step.

    Args:
      learning_rate: η, the peak.
      total_steps: the length of the run; the last step is `total_steps − 1`.
      rise: the share of the run over which the rate rises, in (0, 1).
      start: the ratio of the peak to the first rate, at least 1.
      end: the ratio of the first rate to the last, at least 1.

    Raises:
      ValueError: for a number out of range, or a run too short to rise and fall.

    Example:
      >>> import jtl
      >>> rate = jtl.optim.one_cycle(1.0, 11, rise=0.5)
      >>> [round(float(rate(step)), 3) for step in (0, 10)]
      [0.04, 0.0]

    Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2017, arXiv
    1708.07120.
    """
    within("[0, inf)", learning_rate=learning_rate)
    within("[1, inf)", total_steps=total_steps)
    within("(0, 1)", rise=rise)
    within("[1, inf]", start=start, end=end)
    peak = rise * total_steps - 1
    if not 0 < peak < total_steps - 1:
        raise ValueError(f"total_steps={total_steps}, rise={rise}: more than one step rises, and one falls")

    def half_cosine(a: float, b: float, share: Array) -> Array:
        return b + (a - b) * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0))) / 2

    def schedule(step: Any) -> Array:
        at = jnp.asarray(step, jnp.float32)
        up = half_cosine(learning_rate / start, learning_rate, at / peak)
        down = half_cosine(learning_rate, learning_rate / (start * end), (at - peak) / (total_steps - 1 - peak))
        return jnp.where(at <= peak, up, down)

    return schedule


def steps(learning_rate: float, at: Sequence[int], factor: float = 0.1, warmup: int = 0) -> Schedule:
    """A staircase: `η · factor^k` after k of the steps `at`, with a linear rise from 0 over the first `warmup` steps.

    Args:
      learning_rate: η.
      at: increasing steps; from each of them on the rate is lower.
      factor: the factor of each drop, in (0, 1).
      warmup: the number of steps over which the rate rises, at most `at[0]`; the `warmup` of `warmup_cosine` is a share
        of the run.

    Raises:
      ValueError: for steps that are not integers or do not increase, or a factor or warmup out of range.

    Example:
      >>> import jtl
      >>> rate = jtl.optim.steps(1.0, [10, 20], warmup=4)
      >>> [round(float(rate(step)), 3) for step in (0, 2, 9, 10, 20)]
      [0.0, 0.5, 1.0, 0.1, 0.01]
    """
    within("[0, inf)", learning_rate=learning_rate)
    within("(0, 1)", factor=factor)
    _increasing(0, at)
    whole(0, warmup=warmup)
    if warmup > at[0]:
        raise ValueError(f"warmup={warmup}: the rate rises over at most at[0]={at[0]} steps")

    def schedule(step: Any) -> Array:
        passed = (jnp.asarray(step) >= jnp.asarray(np.asarray(at))).sum()
        rising = jnp.minimum(jnp.asarray(step, jnp.float32) / warmup, 1.0) if warmup else 1.0
        return learning_rate * rising * factor ** passed.astype(jnp.float32)

    return schedule


def restarted(tx: optax.GradientTransformation, at: Sequence[int]) -> optax.GradientTransformation:
    """An optimizer that is re-initialised at given steps: its moments, and the count that its schedules follow.

    For a loss that changes abruptly, as `jtl.alignments.irm` does when its weight jumps: the moments of the old loss
    would distort the length of the first steps on the new one.

    Args:
      tx: an optimizer.
      at: increasing steps, counted from 0; each is the first step after a restart.

    Raises:
      ValueError: for an empty `at`, steps that are not integers or do not increase, or a step below 1.

    Example:
      >>> import jtl, optax
      >>> tx = jtl.optim.restarted(optax.adam(1e-3), at=[500])
    """
    _increasing(1, at)
    starts = np.asarray(at)

    def init(params: Any) -> Any:
        return jnp.zeros((), jnp.int32), tx.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        count, inner = state
        if params is None:
            raise ValueError("restarted needs the parameters: tx.update(updates, state, params)")
        now = (count == jnp.asarray(starts)).any()
        inner = jax.tree.map(lambda new, old: jnp.where(now, new, old), tx.init(params), inner)
        updates, inner = tx.update(updates, inner, params, **extra_of(tx, extra))
        return updates, (count + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def extra_of(tx: optax.GradientTransformation, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The extra arguments that an optimizer takes, because some, such as `optax.contrib.sam`, refuse any other.

    Example:
      >>> import jtl, optax
      >>> jtl.optim.extra_of(optax.scale(0.1), {"value": 1.0})
      {}
    """
    known = inspect.signature(tx.update).parameters
    every = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return {name: value for name, value in extra.items() if every or name in known}


def _increasing(least: int, at: Sequence[Any]) -> None:
    if not at or not all(map(_step, at)) or at[0] < least or any(b <= a for a, b in pairwise(at)):
        raise ValueError(f"at={list(at)}: give increasing steps, integers of at least {least}")


def _step(at: Any) -> bool:
    """Whether a value is a step number; 500.0 is one, because half of a run often comes out as a float."""
    return integer(at) or (real(at) and float(at).is_integer())


class HyperRule(NamedTuple):
    """The hyperparameters that BiT's rule sets for a data set.

    Attributes:
      total_steps: the length of the run, at a batch size of 512.
      schedule: the learning rate for SGD with momentum .9 and no weight decay.
      mixup: α of `jtl.data.mixing.mixup`; 0 for no mixup.
      resize: the side to which training images are scaled.
      crop: the side of the random crop.
    """

    total_steps: int
    schedule: Schedule
    mixup: float
    resize: int
    crop: int


def bit_hyper_rule(examples: int, size: tuple[int, int], learning_rate: float = 0.003) -> HyperRule:
    """BiT's rule, which sets the hyperparameters of fine-tuning by the number of examples and the size of the images.

    A run has 500 steps without mixup below 20 000 examples; 10 000 steps below 500 000 examples and 20 000 steps
    otherwise, both with mixup .1. The rate rises over 100 steps in the first case and over 500 in the others, and is
    divided by 10 three times. Images of fewer than 96² pixels are scaled to 160 and cropped to 128, others to 512 and
    480.

    Args:
      examples: the number of training examples.
      size: height and width of the images.
      learning_rate: the peak, at a batch size of 512.

    Raises:
      ValueError: for numbers of examples or pixels that are not integers of at least 1.

    Example:
      >>> import jtl
      >>> rule = jtl.optim.bit_hyper_rule(50_000, (32, 32))
      >>> rule.total_steps, rule.mixup, rule.resize, rule.crop
      (10000, 0.1, 160, 128)

    Kolesnikov et al., Big Transfer (BiT): General Visual Representation Learning, 2019, arXiv 1912.11370.
    """
    whole(1, examples=examples, height=size[0], width=size[1])
    small = examples < 20_000
    total = 500 if small else 10_000 if examples < 500_000 else 20_000
    warmup = 100 if small else 500
    lower = [200, 300, 400] if small else [total * share // 10 for share in (3, 6, 9)]
    # The authors divide after these steps, not at them.
    schedule = steps(learning_rate, [step + 1 for step in lower], 0.1, warmup)
    resize, crop = (160, 128) if size[0] * size[1] < 96 * 96 else (512, 480)
    return HyperRule(total, schedule, 0.0 if small else 0.1, resize, crop)
