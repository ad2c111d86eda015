"""A backbone and the heads on it, as one model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jtl import rng
from jtl._tracing import scope
from jtl.model import Model, Variables
from jtl.typing import Key, Stats


class Outputs(NamedTuple):
    """The outputs of a network; inside `jit` an output that is not read costs nothing.

    Args:
      output: the output of the head; with several heads a dict by name; with none the features.
      features: the features of the backbone, by name.
      read: the input of the head; with several heads a dict by name.
    """

    output: Any
    features: dict[str, Any]
    read: Any


def network(*, backbone: Model, **heads: Model) -> Model:
    """A backbone and the heads on it, as ONE model whose parameters are one tree.

    `apply(variables, x, train=..., key=...)` returns `(Outputs, stats)`. Each part is initialised from a random stream
    with its own name, so adding a part does not change the others. Each head is given the features that it reads.

    Args:
      backbone: the backbone; its parameters are under `backbone/`.
      **heads: the heads; the parameters of each are under its name. With one head, whatever its name, `Outputs.output`
        is its output, and its class names, if it has any, are the network's; with several it is a dict by name.

    Raises:
      ValueError: at init and when called, for a head that reads a feature which the backbone does not return.
      TypeError: likewise, for a backbone that does not return a dict of features, such as a flax module that returns an
        array.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> variables = net.init(jax.random.key(0), jnp.zeros((4, 5)))
      >>> outputs, _ = net.apply(variables, jnp.zeros((4, 5)), train=False)
      >>> outputs.output.shape
      (4, 3)
    """
    parts = {"backbone": backbone, **heads}

    def init(key: Key, x: Any) -> Variables:
        made = {"backbone": backbone.init(rng.stream(key, "backbone"), x)}
        if heads:

            def read(variables: Variables, x: Any) -> dict[str, Any]:
                features = backbone.apply(variables, x, train=False, key=None)[0]
                return {name: head.reads(features, x) for name, head in heads.items()}

            shapes = jax.eval_shape(read, made["backbone"], x)
            given = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            made |= {name: head.init(rng.stream(key, name), given[name]) for name, head in heads.items()}
        return joined(made)

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Outputs, Stats]:
        keys = {name: None if key is None else rng.stream(key, name) for name in parts}
        own = _own(variables, "backbone", backbone, x)
        with scope.within("backbone"):
            features, new = backbone.apply(own, x, train=train, key=keys["backbone"])
        changed, found, read = {"backbone": new}, {}, {}
        for name, head in heads.items():
            read[name] = head.reads(features, x)
            own = _own(variables, name, head, read[name])
            with scope.within(name):
                found[name], changed[name] = head.apply(own, read[name], train=train, key=keys[name])
        stats = {**variables.stats, **{name: new for name, new in changed.items() if new}}
        if len(heads) == 1:
            (name,) = heads
            return Outputs(found[name], features, read[name]), stats
        return Outputs(found if heads else features, features, read), stats

    classes = next(iter(heads.values())).classes if len(heads) == 1 else None
    return Model(init, apply, parts=parts, classes=classes)


def called(net: Model, variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Outputs, Stats]:
    """Calls a network of a backbone and heads.

    Raises:
      TypeError: for a model of another kind, such as a whole flax classifier.
    """
    found, stats = net.apply(variables, x, train=train, key=key)
    if not isinstance(found, Outputs):
        what = f"an array of shape {found.shape}" if hasattr(found, "shape") else f"a {type(found).__name__}"
        raise TypeError(
            f"the network returns {what}, and no features beside its output: give jtl.network(backbone=body,"
            " head=jtl.heads.linear(classes)), where the body returns a dict of features, as {'pooled': x}; a body with"
            " a classifier of its own returns its logits too, {'pooled': x, 'logits': z}, and the head is"
            " jtl.heads.identity(reads='logits')"
        )
    return found, stats


def joined(made: dict[str, Variables]) -> Variables:
    """Joins the variables of parts into one tree, each under its name; statistics only for parts that have any."""
    return Variables({n: v.params for n, v in made.items()}, {n: v.stats for n, v in made.items() if v.stats})


def part(variables: Variables, name: str) -> Variables:
    """One part of the tree, by its top-level name, as a model's own variables.

    Raises:
      ValueError: if there are no parameters of that name.

    Example:
      >>> import jtl
      >>> jtl.part(jtl.Variables({"head": {"bias": 0.0}}, {}), "head").params
      {'bias': 0.0}
    """
    if name not in variables.params:
        raise ValueError(f"no parameters under {name!r}; there are {sorted(variables.params)}")
    return Variables(variables.params[name], variables.stats.get(name, {}))


def parts_of(net: Model) -> dict[str, Model]:
    """The backbone and the heads of a network.

    Raises:
      ValueError: for a model that `network` did not make.
    """
    if net.parts is None:
        raise ValueError("this model has no parts; give jtl.network(backbone=..., head=...)")
    return dict(net.parts)


def only_head(net: Model, who: str) -> tuple[str, Model]:
    """The name and the model of a network's only head.

    Args:
      net: the network.
      who: the method that asks, for the message.

    Raises:
      ValueError: for a network with no head or several, or a model that `network` did not make.

    Example:
      >>> import jtl
      >>> from jtl.networks import only_head
      >>> only_head(jtl.network(backbone=jtl.backbones.mlp((8,)), top=jtl.heads.linear(3)), "gvb")[0]
      'top'
    """
    heads = {name: model for name, model in parts_of(net).items() if name != "backbone"}
    if len(heads) != 1:
        raise ValueError(f"{who}: the network has the heads {sorted(heads)}; it needs exactly one")
    return next(iter(heads.items()))


def _own(variables: Variables, name: str, model: Model, x: Any) -> Variables:
    """A part's own variables; a part without parameters, such as `heads.identity()`, may be missing from the tree."""
    if name in variables.params or jax.eval_shape(model.init, jax.random.key(0), x).params:
        return part(variables, name)
    return Variables({}, variables.stats.get(name, {}))
