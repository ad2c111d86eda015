"""Many LoRA adapters on one base: swapped by name without recompilation, and mixed in a batch."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from jtl.model import ADAPTER, Model, Variables
from jtl.params import flatten, unflatten
from jtl.peft.attach import Adapter, below, matched
from jtl.peft.lora import rank_and_scale
from jtl.transform.intercept import Call, OnEach, intercepted
from jtl.typing import Key, Output, Params, Stats


class Routed(NamedTuple):
    """A batch whose rows belong to several tasks.

    Args:
      x: the input of the base.
      adapter: [batch], the number of each row's adapter, as returned by `Bank.rows`; 0 for the base alone.
    """

    x: Any
    adapter: Int[Any, "batch"]


@dataclass(frozen=True)
class Bank:
    """One base and room for adapters; `bank` makes it. The shapes of its arrays do not depend on its content.

    Args:
      network: takes a `Routed` in place of the base's input.
      variables: variables of the network; pass them to a compiled function as an argument, so that it is not
        recompiled.
      names: names of the adapters, in the order of their numbers, from 1 on; "" for a free slot.
      rank: the highest rank of an adapter.
    """

    network: Model
    variables: Variables
    names: tuple[str, ...]
    rank: int

    def put(self, name: str, variables: Variables, adapter: Adapter) -> "Bank":
        """Returns the bank with this adapter, in place of one of the same name or in a free slot.

        Args:
          name: name of the adapter, not empty.
          variables: variables of a network with the adapter; its base is ignored.
          adapter: the `jtl.peft.lora(...)` that was attached, or the adapter that `jtl.peft.load` returned.

        Raises:
          ValueError: for a full bank, a rank above the bank's, a module that the bank does not cover, an adapter that
            is not plain LoRA (DoRA and PiSSA are not), and an empty name.
        """
        if not name:
            raise ValueError("name='': give the adapter a name")
        if name not in self.names and "" not in self.names:
            raise ValueError(
                f"{name!r}: the bank is full with {list(self.names)}; remove one, or make it with more slots"
            )
        slot = self.names.index(name if name in self.names else "")
        leaves = self._checked(name, variables, adapter)
        names = (*self.names[:slot], name, *self.names[slot + 1 :])
        return replace(self, variables=self._written(slot + 1, leaves), names=names)

    def remove(self, name: str) -> "Bank":
        """Returns the bank without the adapter of this name.

        Raises:
          ValueError: if there is none.
        """
        (slot,) = self.rows([name])
        names = (*self.names[: slot - 1], "", *self.names[slot:])
        return replace(self, variables=self._written(int(slot), {}), names=names)

    def rows(self, names: Sequence[str | None]) -> Int[Array, "batch"]:
        """Returns the number of each row's adapter, given the names; None means the base alone.

        Raises:
          ValueError: for a name that is not in the bank.
        """
        missing = sorted({name for name in names if name is not None and (not name or name not in self.names)})
        if missing:
            raise ValueError(f"the adapters {missing} are not in the bank; there are {[n for n in self.names if n]}")
        return jnp.asarray([0 if name is None else 1 + self.names.index(name) for name in names], jnp.int32)

    def _checked(self, name: str, variables: Variables, adapter: Adapter) -> dict[str, Array]:
        config = adapter.config
        if config.get("peft_type") != "LORA" or config["use_dora"] or adapter.rest is not None:
            raise ValueError(f"{name!r}: a bank takes jtl.peft.lora(...) without magnitude and with start='zero'")
        given = flatten(variables.params.get("backbone", variables.params)[ADAPTER])
        paths = [path for path in _modules(given) if any(re.fullmatch(pattern, path) for pattern in adapter.where)]
        if not paths:
            raise ValueError(f"{name!r}: the adapter's patterns {adapter.where} match none of {_modules(given)}")
        room = flatten(_bank_of(self.variables))
        leaves = {}
        for path in paths:
            rank, scale = rank_and_scale(config, path)
            if rank > self.rank:
                raise ValueError(f"{name!r}: its rank {rank} at {path!r} is above the bank's, {self.rank}")
            for leaf, value in (("a", given[f"{path}/a"]), ("b", scale * given[f"{path}/b"])):
                to = f"{path}/{leaf}"
                if to not in room:
                    raise ValueError(
                        f"{name!r}: has an adapter at {path!r}, and the bank has none; there are {_modules(room)}"
                    )
                axis = 1 if leaf == "a" else 0
                if value.shape[1 - axis] != room[to].shape[2 - axis]:
                    raise ValueError(f"{name!r}: {to} is {value.shape}; the bank's base has {room[to].shape[1:]}")
                more = [(0, self.rank - rank) if i == axis else (0, 0) for i in (0, 1)]
                leaves[to] = jnp.pad(value, more).astype(room[to].dtype)
        return leaves

    def _written(self, slot: int, leaves: Mapping[str, Array]) -> Variables:
        flat = flatten(_bank_of(self.variables))
        made = {path: old.at[slot].set(leaves.get(path, jnp.zeros_like(old[slot]))) for path, old in flat.items()}
        return _with_bank(self.variables, unflatten(made))


def bank(net: Model, variables: Variables, where: Sequence[str], *, slots: int, rank: int) -> Bank:
    """One frozen base with room for many LoRA adapters: row i is computed with `W + s A[t] B[t]` of its adapter t.

    Adapters are added and removed by name. All have the shapes of the highest rank, with lower ranks padded by zeros,
    so a function that was compiled for the bank runs with any of them. A batch may mix rows of several adapters, and
    equals running each of them alone. It is for evaluation: train an adapter by `attach`.

    Args:
      net: a network of `jtl.network`, or a backbone, without adapters at these modules.
      variables: variables of `net`; they are not changed.
      where: regexes over paths of dense layers; an adapter may cover only some of them.
      slots: number of adapters that it has room for.
      rank: the highest rank of an adapter.

    Returns:
      A bank without adapters.

    Raises:
      ValueError: for sizes below 1, a pattern that matches no module, and a kernel that is not [in, out]; when called,
        for an input that is not a `Routed`, and in training. Rows with a number outside the bank are NaN.

    Chen et al., Punica: Multi-Tenant LoRA Serving, 2023, arXiv 2310.18547; Sheng et al., S-LoRA, 2023, arXiv
    2311.03285.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.peft import Routed
      >>> net, x = jtl.backbones.mlp((8, 4)), jnp.ones((3, 5))
      >>> variables, adapter = net.init(jax.random.key(0), x), jtl.peft.lora(2, ("stage1/dense",))
      >>> _, mine = jtl.peft.attach(net, variables, adapter, jax.random.key(1))
      >>> bank = jtl.peft.bank(net, variables, (".*",), slots=2, rank=4).put("mine", mine, adapter)
      >>> run = jax.jit(lambda v, rows: bank.network.apply(v, Routed(x, rows), train=False)[0]["pooled"])
      >>> run(bank.variables, bank.rows(["mine", None, "mine"])).shape
      (3, 4)
    """
    if slots < 1 or rank < 1:
        raise ValueError(f"slots={slots}, rank={rank}: give at least 1 of each")
    whole = "backbone" not in variables.params
    base = variables.params if whole else variables.params["backbone"]
    paths, flat, made = matched(base, where), flatten(base), {}
    for path in paths:
        kernel = flat[f"{path}/kernel"]
        if kernel.ndim != 2:
            raise ValueError(f"the kernel of {path!r} is {kernel.shape}; a bank takes dense layers, [in, out]")
        made[f"{path}/a"] = jnp.zeros((slots + 1, kernel.shape[0], rank), kernel.dtype)
        made[f"{path}/b"] = jnp.zeros((slots + 1, rank, kernel.shape[1]), kernel.dtype)
    if ADAPTER in base:
        raise ValueError(f"the modules {_modules(flatten(base[ADAPTER]))} have adapters already; merge them first")
    routed = _routed(net, frozenset(paths), "" if whole else "backbone/")
    return Bank(routed, _with_bank(variables, unflatten(made)), ("",) * slots, rank)


def _routed(net: Model, wanted: frozenset[str], top: str) -> Model:
    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        if not isinstance(x, Routed):
            raise ValueError(f"the input is {type(x).__name__}: a bank takes Routed(x, adapter)")
        if train:
            raise ValueError("train=True: a bank is for evaluation; train an adapter by jtl.peft.attach")
        rows = jnp.asarray(x.adapter)
        if rows.ndim != 1 or not jnp.issubdtype(rows.dtype, jnp.integer):
            raise ValueError(f"adapter is {rows.dtype}{rows.shape}: give a number for each row, [batch]")
        stacked = _bank_of(variables)
        numbers = jnp.where(rows < 0, jnp.iinfo(rows.dtype).max, rows)  # numbers outside the bank are filled with NaN

        class Choosing(OnEach):
            def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
                path = call.path.removeprefix(top)
                if call.method != "__call__" or not call.path.startswith(top) or path not in wanted:
                    return run(*args, **kwargs)
                self.saw(path)
                part, given, y = below(stacked, path), args[0], run(*args, **kwargs)
                if len(given) != len(rows):
                    raise ValueError(f"{path!r} is called with {len(given)} rows, and adapter has {len(rows)}")
                a, b = (jnp.take(part[leaf], numbers, 0, mode="fill").astype(y.dtype) for leaf in ("a", "b"))
                flat = given.reshape(len(given), -1, given.shape[-1])
                return y + (flat @ a @ b).reshape(y.shape)

        missing = (
            f"not every one of the modules {sorted(wanted)} is called as a module, so their adapters have no effect"
        )
        return intercepted(net, lambda: Choosing(wanted), missing).apply(variables, x.x, train=False, key=key)

    def init(key: Key, x: Any) -> Variables:
        del key, x
        raise ValueError("a bank is made of the variables of its base, by jtl.peft.bank")

    return Model(init, apply, classes=net.classes)


def _bank_of(variables: Variables) -> Params:
    return variables.params.get("backbone", variables.params)[ADAPTER]


def _with_bank(variables: Variables, stacked: Params) -> Variables:
    params = variables.params
    if "backbone" not in params:
        return variables._replace(params={**params, ADAPTER: stacked})
    return variables._replace(params={**params, "backbone": {**params["backbone"], ADAPTER: stacked}})


def _modules(flat: Mapping[str, Any]) -> list[str]:
    return list({path.rpartition("/")[0]: None for path in flat})
