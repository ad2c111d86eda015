"""Heads that compare queries with the support set: Matching networks, Relation networks, SimpleShot."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jtl.heads import Reads, identity, reading
from jtl.methods.meta import checked
from jtl.methods.meta.inner_loop import Adapt, start_of
from jtl.methods.meta.prototypes import head_of, present, read_support
from jtl.model import Model, Variables
from jtl.networks import network, parts_of
from jtl.objective import init_of
from jtl.typing import Batch, Key, Output, Params, Stats

SUPPORT, MEMBER = "support", "member"
"""Names under which such a head finds the support set's features, and the weight of each row in each class."""


def memorise(net: Model, *, way: int, train: bool = True) -> Adapt:
    """Gives the head the features and labels of the support set.

    Args:
      net: a network whose head is `matching()`, `relation(...)` or `nearest_mean()`.
      way: number of classes of a task; labels lie in [0, way). A class without support gets probability 0.
      train: as in `prototypes`.

    Returns:
      An `Adapt` that has no parameters of its own.

    Raises:
      ValueError: for a way that is not an integer of at least 1, or a network that does not have exactly one head.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=jtl.learners.matching())
      >>> objective = jtl.meta(jtl.learners.memorise(net, way=5), jtl.finetune(net))
    """
    head = head_of(net)
    checked.whole(1, way=way)
    own = parts_of(net)
    bare = network(**{**own, head: reading(identity(), own[head].reads)})  # the head cannot run before it has a memory

    def run(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        del step
        params = start_of(params)
        z, member, stats = read_support(bare, params, stats, support, key, way, train=train)
        return {**params, head: {**params.get(head, {}), SUPPORT: z, MEMBER: member}}, stats

    return Adapt(run, init_of(net))


def matching(temperature: float = 1.0, *, reads: Reads = "pooled") -> Model:
    """Attention over the support set: `p(k | x) = Σ_{i: y_i = k} a_i`, `a = softmax_i(cos(z, z_i) / τ)`.

    Its outputs are logits, `log Σ_{i: y_i = k} exp(cos(z, z_i) / τ)`; it has no parameters. Use it with `memorise`.

    Args:
      temperature: τ > 0.
      reads: which features are compared.

    Raises:
      ValueError: for a temperature that is not positive and finite; when called, without a memory.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=jtl.learners.matching())

    Vinyals et al., Matching Networks for One Shot Learning, 2016, arXiv 1606.04080 (without full context embeddings).
    """
    checked.positive(temperature=temperature)

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        del train, key
        z, member = memory_of(variables.params)
        close = unit(x) @ unit(z).T / temperature
        there = member > 0
        largest = jax.lax.stop_gradient(jnp.where(there[None], close[:, :, None], -jnp.inf).max(1))
        largest = jnp.where(jnp.isfinite(largest), largest, 0)
        rows = jnp.where(there[None], close[:, :, None] - largest[:, None], 0)
        sums = (member[None] * jnp.exp(rows)).sum(1)
        found, some = present(member)[None], there.any(0)[None]
        return jnp.where(found, largest + jnp.log(jnp.where(some, sums, 1)), -jnp.inf), variables.stats

    return reading(Model(_nothing, apply), reads)


def relation(module: Model, *, reads: Reads = "pooled") -> Model:
    """A learned comparison: logits `g([Σ_{i: y_i = k} z_i, z])` for each class k. Use it with `memorise`.

    Args:
      module: g, from two concatenated features, [n, ..., 2 d], to [n, 1]; a network on maps if `reads` selects maps.
      reads: which features are compared; `jtl.reads.whole("last")` for maps, as in the paper.

    Raises:
      ValueError: when called, without a memory, or for a module with another number of outputs.

    Example:
      >>> import jtl
      >>> head = jtl.learners.relation(jtl.heads.mlp(1, (8,)))
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=head)
      >>> objective = jtl.finetune(net, jtl.learners.relation_error)

    Sung et al., Learning to Compare: Relation Network for Few-Shot Learning, 2017, arXiv 1711.06025.
    """

    def init(key: Key, x: Any) -> Variables:
        return module.init(key, jnp.concatenate([x, x], -1))

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        z, member = memory_of(variables.params)
        c = jnp.tensordot(member, z, (0, 0))
        shape = (len(x), *c.shape)
        pairs = [jnp.broadcast_to(c[None], shape), jnp.broadcast_to(x[:, None].astype(c.dtype), shape)]
        rows = jnp.concatenate(pairs, -1)
        own = {name: value for name, value in variables.params.items() if name not in (SUPPORT, MEMBER)}
        rows = rows.reshape(-1, *rows.shape[2:])
        scores, stats = module.apply(Variables(own, variables.stats), rows, train=train, key=key)
        if scores.shape != (len(rows), 1):
            raise ValueError(f"the relation module returns {scores.shape} for {len(rows)} pairs; give one number each")
        return jnp.where(present(member)[None], scores.reshape(shape[:2]), -jnp.inf), stats

    return reading(Model(init, apply), reads)


def relation_error(logits: Float[Array, "rows way"], y: Integer[Array, "rows"]) -> Float[Array, "rows"]:
    """The squared error of Relation networks, `Σ_k (σ(r_k) − 1[y = k])²`, one value per row; NaN if y is not a class.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> float(jtl.learners.relation_error(jnp.zeros((1, 4)), jnp.zeros(1, int))[0])
      1.0

    Sung et al., Learning to Compare: Relation Network for Few-Shot Learning, 2017, arXiv 1711.06025.
    """
    target = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    values = jnp.square(jax.nn.sigmoid(logits) - target).sum(-1)
    return jnp.where((y >= 0) & (y < logits.shape[-1]), values, jnp.nan)


def nearest_mean(*, normalise: bool = True, reads: Reads = "pooled") -> Model:
    """SimpleShot: logits `−‖u(z) − c_k‖²`, `u(z) = (z − m) / ‖z − m‖`, c_k the mean of u over the support of class k.

    Use it with `memorise(..., train=False)` on a backbone that was trained by plain classification. m is the mean of
    the base classes' features, `head/centre`: 0 until `centred` sets it.

    Args:
      normalise: False keeps lengths as they are, `u(z) = z − m`.
      reads: which features are compared.

    Raises:
      ValueError: when called, without a memory.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(64), head=jtl.learners.nearest_mean())
      >>> adapt = jtl.learners.memorise(net, way=5, train=False)

    Wang et al., SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning, 2019, arXiv 1911.04623.
    """

    def init(key: Key, x: Any) -> Variables:
        del key
        return Variables({"centre": jnp.zeros(x.shape[-1])}, {})

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        del train, key
        z, member = memory_of(variables.params)
        centre = variables.params["centre"].astype(z.dtype)[None]
        support, query = z - centre, x.astype(z.dtype) - centre
        if normalise:
            support, query = unit(support), unit(query)
        counts = member.sum(0)
        c = member.T @ support / jnp.maximum(counts, 1e-30)[:, None]
        distance = jnp.square(query[:, None] - c[None]).sum(-1)
        return jnp.where(present(member)[None], -distance, -jnp.inf), variables.stats

    return reading(Model(init, apply), reads)


def centred(net: Model, variables: Variables, features: Float[Array, "rows features"]) -> Variables:
    """The variables with a `nearest_mean` head's `centre = mean_i f_i` over features of the base classes.

    Args:
      net: the network with that head.
      variables: the network's variables.
      features: what the head reads for base examples, which `jtl.collect(...)` returns under `read`.

    Raises:
      ValueError: for a head without a centre, or features of another width.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((2,)), head=jtl.learners.nearest_mean())
      >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 3)))
      >>> jtl.learners.centred(net, variables, jnp.array([[0.0, 2.0], [2.0, 4.0]])).params["head"]["centre"].tolist()
      [1.0, 3.0]

    Wang et al., SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning, 2019, arXiv 1911.04623.
    """
    head = head_of(net)
    own = variables.params.get(head, {})
    if "centre" not in own or own["centre"].shape != features.shape[1:]:
        raise ValueError(
            f"the head {head!r} has no centre of shape {features.shape[1:]}: it is no nearest_mean of them"
        )
    rows = jnp.asarray(features)
    mean = rows.astype(jnp.promote_types(rows.dtype, jnp.float32)).mean(0)
    return Variables({**variables.params, head: {**own, "centre": mean}}, variables.stats)


def unit(x: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    """Rows scaled to length 1; a row of zeros stays zero, with a finite derivative."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def _nothing(key: Key, x: Any) -> Variables:
    del key, x
    return Variables({}, {})


def memory_of(params: Params) -> tuple[Array, Array]:
    """The support set's features in a head's parameters, and the weight of each row in each class.

    Raises:
      ValueError: if there are none.
    """
    if SUPPORT not in params:
        raise ValueError("this head compares with a support set and has none: adapt with memorise(net, way=...) first")
    return params[SUPPORT], params[MEMBER]
