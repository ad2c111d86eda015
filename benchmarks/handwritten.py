"""The same steps as a careful author writes them for one task: plain jax and optax, using only the networks from jtl.

Each function returns `(state, update)` with `update(state, batch) -> (state, metrics)`, to be jitted with the state
donated. They compute the same as jtl's steps: the same losses, the same metrics, the same order of tasks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.setups import INNER_LR, RUN, Setup
from jtl.model import Variables


def write(setup: Setup) -> tuple[Any, Callable]:
    """The hand-written step of a setup's family."""
    return {"finetune": finetune, "features": features, "dann": dann, "maml": maml}[setup.cell.family](setup)


def finetune_loss(setup: Setup) -> Callable:
    """`loss_of(params, stats, batch) -> (loss, (stats, accuracy))`: cross-entropy of head(backbone(x))."""

    def loss_of(params, stats, batch):
        logits, stats = _network(setup, _cast(params, setup), stats, batch["x"])
        return _cross_entropy(logits, batch["y"]), (stats, _accuracy(logits, batch["y"]))

    return loss_of


def finetune(setup: Setup) -> tuple[Any, Callable]:
    """Cross-entropy of head(backbone(x)), with everything trained."""
    loss_of = finetune_loss(setup)

    def update(state, batch):
        params, stats, opt = state
        (loss, (stats, accuracy)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, stats, batch)
        updates, opt = setup.tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), stats, opt), {"loss": loss, "accuracy": accuracy}

    params, stats = _start(setup)
    return (params, stats, setup.tx.init(params)), update


def features(setup: Setup) -> tuple[Any, Callable]:
    """Cross-entropy of head(backbone(x)), with the backbone in evaluation mode and only the head trained."""

    def update(state, batch):
        params, stats, opt = state
        frozen = Variables(_cast(params["backbone"], setup), stats)
        found, _ = setup.backbone.apply(frozen, batch["x"], train=False, key=None)

        def loss_of(head):
            logits = _apply(setup.head, _cast(head, setup), found["pooled"])
            return _cross_entropy(logits, batch["y"]), _accuracy(logits, batch["y"])

        (loss, accuracy), grads = jax.value_and_grad(loss_of, has_aux=True)(params["head"])
        updates, opt = setup.tx.update(grads, opt, params["head"])
        params = {"backbone": params["backbone"], "head": optax.apply_updates(params["head"], updates)}
        return (params, stats, opt), {"loss": loss, "accuracy": accuracy}

    params, stats = _start(setup)
    return (params, stats, setup.tx.init(params["head"])), update


@jax.custom_vjp
def _reverse(x, weight):
    del weight
    return x


def _reverse_backward(weight, g):
    return (-weight * g).astype(g.dtype), jnp.zeros_like(weight)


_reverse.defvjp(lambda x, weight: (x, weight), _reverse_backward)


def dann(setup: Setup) -> tuple[Any, Callable]:
    """Source cross-entropy plus a critic behind a gradient reversal whose weight grows over the run."""

    def loss_of(params, stats, batch, weight):
        params = _cast(params, setup)
        n, y = len(batch["source"]["y"]), batch["source"]["y"]
        x = jax.tree.map(lambda *both: jnp.concatenate(both), batch["source"]["x"], batch["target"]["x"])
        found, stats = setup.backbone.apply(Variables(params["backbone"], stats), x, train=True, key=None)
        logits = _apply(setup.head, params["head"], found["pooled"])[:n]
        judged = _apply(setup.critic, params["critic"], _reverse(found["pooled"], weight))[:, 0].astype(jnp.float32)
        source, target = judged[:n], judged[n:]
        critic = 0.5 * jax.nn.softplus(-source).mean() + 0.5 * jax.nn.softplus(target).mean()
        right = jnp.concatenate([source > 0, target <= 0]).mean()
        return _cross_entropy(logits, y) + critic, (stats, _accuracy(logits, y), right)

    def update(state, batch):
        params, stats, opt, step = state
        weight = 2 / (1 + jnp.exp(-10 * jnp.minimum(step / RUN, 1.0))) - 1
        (loss, (stats, *right)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, stats, batch, weight)
        updates, opt = setup.tx.update(grads, opt, params)
        metrics = {"loss": loss, "accuracy": right[0], "critic_accuracy": right[1]}
        return (optax.apply_updates(params, updates), stats, opt, step + 1), metrics

    params, stats = _start(setup)
    return (params, stats, setup.tx.init(params), jnp.zeros((), jnp.int32)), update


def maml(setup: Setup) -> tuple[Any, Callable]:
    """Second-order MAML; gradients are added up task by task in a scan, or all tasks run in parallel."""
    cell = setup.cell

    def loss_of(params, stats, part):
        logits, _ = _network(setup, params, stats, part["x"])
        return _cross_entropy(logits, part["y"]), _accuracy(logits, part["y"])

    def task(params, stats, support, query):
        params = _cast(params, setup)
        for _ in range(cell.inner_steps):
            grads, _ = jax.grad(loss_of, has_aux=True)(params, stats, support)
            params = jax.tree.map(lambda p, g: p - INNER_LR * g, params, grads)
        return loss_of(params, stats, query)

    def side_by_side(params, stats, batch):
        losses, accuracies = jax.vmap(task, (None, None, 0, 0))(params, stats, batch["support"], batch["query"])
        return losses.mean(), accuracies.mean()

    def one_by_one(params, stats, batch):
        def body(grads, part):
            found, more = jax.value_and_grad(task, has_aux=True)(params, stats, part["support"], part["query"])
            return jax.tree.map(jnp.add, grads, more), found

        grads, (losses, accuracies) = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, params), batch)
        return (losses.mean(), accuracies.mean()), jax.tree.map(lambda g: g / cell.batch, grads)

    gradient = one_by_one if cell.microbatch > 1 else jax.value_and_grad(side_by_side, has_aux=True)

    def update(state, batch):
        params, stats, opt = state
        (loss, accuracy), grads = gradient(params, stats, batch)
        updates, opt = setup.tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), stats, opt), {"loss": loss, "accuracy": accuracy}

    params, stats = _start(setup)
    return (params, stats, setup.tx.init(params)), update


def _start(setup: Setup) -> tuple[Any, Any]:
    """Copies of the parameters and of the backbone's statistics: the step may overwrite them."""
    return jax.tree.map(jnp.copy, (setup.variables.params, setup.variables.stats.get("backbone", {})))


def _network(setup: Setup, params: Any, stats: Any, x: Any) -> tuple[Any, Any]:
    found, stats = setup.backbone.apply(Variables(params["backbone"], stats), x, train=True, key=None)
    return _apply(setup.head, params["head"], found["pooled"]), stats


def _apply(model: Any, params: Any, x: Any) -> Any:
    return model.apply(Variables(params, {}), x, train=True, key=None)[0]


def _cast(params: Any, setup: Setup) -> Any:
    return jax.tree.map(lambda p: p.astype(setup.cell.dtype), params)


def _cross_entropy(logits: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), y).mean()


def _accuracy(logits: Any, y: Any) -> Any:
    return (logits.argmax(-1) == y).mean()
