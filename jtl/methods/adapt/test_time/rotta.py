"""RoTTA: a student learns its teacher's predictions on a balanced memory, with statistics that move slowly."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl import ops, rng
from jtl.checked import whole, within
from jtl.methods.adapt.test_time.memory_bank import Slots, empty, remembered
from jtl.methods.adapt.test_time.mixed_norms import mixed
from jtl.methods.adapt.test_time.norms import norms
from jtl.methods.adapt.test_time.predictions import checked_logits, kept
from jtl.methods.adapt.test_time.stream import Stream, StreamState, stream
from jtl.metrics.accumulate import Mean, mean
from jtl.metrics.certainty import entropy
from jtl.model import Model, Variables, upcast
from jtl.objective import NONE, Objective, complete
from jtl.params import merge, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats, Tree

NAME = "rotta"


def rotta(
    net: Model,
    augment: Callable[[Key, Any], Any],
    tx: optax.GradientTransformation,
    *,
    trainable: Mask | Tree = norms,
    capacity: int = 64,
    every: int = 64,
    share: float = 0.05,
    momentum: float = 0.999,
    timeliness: float = 1.0,
    certainty: float = 1.0,
) -> Stream:
    """The stream that minimises `mean_m E(a_m) (−Σ_c q_mc log p_mc)` over a memory, after each `every` rows.

    q is the teacher's prediction of a row in the memory, p the student's of the augmented row, and
    `E(a) = exp(−a/N) / (1 + exp(−a/N))`, with a the row's age in rows and N the capacity. After the update the
    teacher is `θ' ← m θ' + (1 − m) θ`. Both normalise by `(1 − α) r + α s`, with s the statistics of the memory, and r
    becomes that mixture; each has its own r. Batches are predicted by the teacher with its running statistics, before
    the update. So the statistics of a batch, which can be of one class, normalise nothing.

    Which rows the memory keeps: see `memory_bank.remembered`. It holds rows of all predicted classes, also if the
    stream shows one class after the other. A row whose prediction is not finite is passed over. One thing differs from
    the authors' code: of rows in the memory with equal scores the first is replaced, not the last.

    A batch can have any size, for each of which the step compiles once. An update has two forward passes and one
    backward pass over the memory. `StreamState.variables` are the student's; the teacher and the memory
    are in its `stats["rotta"]`.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      augment: `augment(key, x) -> x`; the authors use CoTTA's changes of colour, gamma, rotation, translation and scale
        with blur, mirroring and noise.
      tx: an optimizer; the authors use Adam at 0.001 for CIFAR-10.
      trainable: the parameters to adapt, by default those of normalisation layers; all others stay bit-equal.
      capacity: N, the number of rows in the memory.
      every: the number of rows between two updates.
      share: α.
      momentum: m, which is `1 − ν`.
      timeliness: λ_t, the weight of age in what the memory keeps.
      certainty: λ_u, the weight of the prediction's entropy.

    Returns:
      A stream as of `stream(...)`.

    Raises:
      ValueError: for numbers below 1, a share or momentum outside [0, 1], or weights below 0; while tracing, for an
        output that is not [batch, classes], or a BatchNorm of flax.nnx.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 16, 16, 3))}
      >>> adapting = jtl.test_time.rotta(net, jtl.data.augment.flip(), optax.adam(1e-3), capacity=6, every=8)
      >>> state = adapting.init(net.init(jax.random.key(0), batch["x"]), jax.random.key(1), batch)
      >>> state, logits = jax.jit(adapting.step)(state, batch)
      >>> int((state.variables.stats["rotta"]["slots"].label >= 0).sum())  # of 6, each of the 3 classes has 2
      2

    Yuan et al., Robust Test-Time Adaptation in Dynamic Scenarios, 2023, arXiv 2303.13899.
    """
    whole(1, capacity=capacity, every=every)
    within("[0, 1]", share=share, momentum=momentum)
    within("[0, inf)", timeliness=timeliness, certainty=certainty)

    def loss(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Mean, Aux]:
        """The loss on a memory `{"x", "mask", "age"}`."""
        del step
        own, x, rows = stats[NAME], batch["x"], batch["mask"]
        running = {name: value for name, value in stats.items() if name != NAME}
        net_of_memory = mixed(net, share, rows=rows)
        teacher = Variables(merge(own["teacher"], split(params, trainable)[1]), own["running"])
        told, of_teacher = net_of_memory.apply(teacher, x, train=True, key=key)
        changed = augment(rng.stream(key, "augment"), x)
        given, of_student = net_of_memory.apply(Variables(params, running), changed, train=True, key=key)
        target, logits = (jnp.where(rows[:, None], out.output, 0).astype(jnp.float32) for out in (told, given))
        q = jax.lax.stop_gradient(jax.nn.softmax(target))
        weights = jax.nn.sigmoid(-batch["age"].astype(jnp.float32) / capacity)
        value = mean(-weights * jnp.sum(q * jax.nn.log_softmax(logits), 1), rows)
        return value, Aux({**of_student, NAME: {**own, "running": of_teacher}}, {}, {"output": logits})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        made = complete(net.init, key, batch["x"], given)
        running = {name: value for name, value in made.stats.items() if name != NAME}
        own = {
            "teacher": upcast(split(made.params, trainable)[0]),
            "running": running,
            "slots": empty(capacity),
            "x": jax.tree.map(lambda a: jnp.zeros((capacity, *jnp.shape(a)[1:]), jnp.asarray(a).dtype), batch["x"]),
            "count": jnp.zeros((), jnp.int32),
        }
        return made._replace(stats={NAME: own, **made.stats})

    def commit(stats: Stats, params: Params) -> Stats:
        part = upcast(split(params, trainable)[0])
        teacher = optax.incremental_update(part, stats[NAME]["teacher"], 1 - momentum)
        return {**stats, NAME: {**stats[NAME], "teacher": teacher}}

    learn = stream(Objective(loss, init, commit), tx, trainable=trainable)

    def step(state: StreamState, batch: Batch) -> tuple[StreamState, Any]:
        own = state.variables.stats[NAME]
        x = ops.without_masked(batch["x"], batch.get("mask"))
        teacher = Variables(merge(own["teacher"], split(state.variables.params, trainable)[1]), own["running"])
        logits = checked_logits(net.apply(teacher, x, train=False)[0].output)
        rows = kept(batch, len(logits))
        h = entropy(jnp.where(rows[:, None], logits, 0))
        rows = rows & jnp.isfinite(h)
        given = {"timeliness": timeliness, "certainty": certainty}
        history = remembered(own["slots"], logits.argmax(1), h, rows, logits.shape[1], **given)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, jnp.asarray(b, a.dtype)]), own["x"], x)

        def inputs(slots: Slots) -> Any:
            return jax.tree.map(lambda a: a[slots.place], both)

        counts = own["count"] + jnp.cumsum(rows, dtype=jnp.int32)
        most = -(-len(logits) // every)
        (due,) = jnp.nonzero(rows & (counts % every == 0), size=most, fill_value=-1)

        def update(state: StreamState, which: tuple[Any, Any]) -> tuple[StreamState, None]:
            number, row = which
            slots = jax.tree.map(lambda a: a[row], history)
            memory = {"x": inputs(slots), "mask": slots.label >= 0, "age": slots.age}
            keyed = state._replace(key=jax.random.fold_in(state.key, number))

            def learned() -> StreamState:  # an update is no batch
                return learn.step(keyed, memory)[0]._replace(key=None, step=state.step)

            waiting = state._replace(key=None)
            if len(logits) < every:
                new = jax.lax.cond(row >= 0, learned, lambda: waiting)
            else:  # XLA's CPU backend computes convolutions in a conditional or a loop three times slower
                new = jax.tree.map(lambda a, b: jnp.where(row >= 0, a, b), learned(), waiting)
            return new._replace(key=state.key), None

        state, _ = jax.lax.scan(update, state, (jnp.arange(most), due), unroll=most if most <= 4 else 1)
        last = jax.tree.map(lambda a: a[-1], history)
        here = last._replace(place=jnp.arange(capacity, dtype=jnp.int32))
        stats = state.variables.stats
        new = {**stats[NAME], "slots": here, "x": inputs(last), "count": counts[-1] % every}
        variables = state.variables._replace(stats={**stats, NAME: new})
        return state._replace(variables=variables, step=state.step + 1), logits

    return Stream(learn.init, step, learn.reset)
