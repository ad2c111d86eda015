"""A bank of adapters against each adapter merged into the base, and the traces of a function that swaps them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prompted import NETS, random_variables, texts
from small_vit import IMAGES, base, randomised

from jtl import heads, peft
from jtl.networks import network
from jtl.peft import Routed

WHERE = (r"block\d/attention/(query|value)", r"block\d/mlp/up")
ADAPTERS = {
    "one": peft.lora(1, (r"block\d/attention/query",), alpha=3),
    "two": peft.lora(2, WHERE, alpha=3, rank_stabilised=True, ranks={".*/query": 1}, alphas={"block1/.*": 2}),
    "four": peft.lora(4, (r"block2/mlp/up",)),
}


def trained(net, variables, name, seed=0):
    made = randomised(peft.attach(net, variables, ADAPTERS[name], jax.random.key(seed))[1])
    return jax.tree.map(lambda a: a * (1 + 0.1 * seed), made)


@pytest.fixture(scope="module")
def small():
    net, variables = base()
    alone = jax.jit(lambda v: net.apply(v, IMAGES, train=False)[0].output)
    made = {name: trained(net, variables, name) for name in ADAPTERS}
    wanted = {name: alone(peft.merge(v, ADAPTERS[name])) for name, v in made.items()} | {None: alone(variables)}
    return net, variables, made, wanted


def test_a_mixed_batch_is_each_adapter_alone_without_a_second_trace(small):
    """Ranks 1, 2 and 4, two scales, at other modules; swapped, removed, in another order: one trace, equal rows."""
    net, variables, made, wanted = small
    bank, traces = peft.bank(net, variables, WHERE, slots=2, rank=4), []

    @jax.jit
    def run(variables, rows):
        traces.append(rows)
        return bank.network.apply(variables, Routed(IMAGES, rows), train=False)[0].output

    def check(bank, names):
        found = run(bank.variables, bank.rows(names))
        for i, name in enumerate(names):
            np.testing.assert_allclose(found[i], wanted[name][i], rtol=0, atol=2e-5, err_msg=str((i, name)))

    np.testing.assert_array_equal(run(bank.variables, bank.rows([None] * 4)), wanted[None])
    first = bank.put("one", made["one"], ADAPTERS["one"]).put("two", made["two"], ADAPTERS["two"])
    check(first, ["one", None, "two", "one"])
    check(first, ["two", "two", "one", None])
    second = first.remove("two").put("four", made["four"], ADAPTERS["four"])
    assert second.names == ("one", "four")
    check(second, ["four", "one", None, "four"])
    third = second.put("one", made["four"], ADAPTERS["four"])  # a lower rank leaves nothing behind
    np.testing.assert_allclose(run(third.variables, third.rows(["one"] * 4)), wanted["four"], rtol=0, atol=2e-5)
    assert np.isnan(run(third.variables, jnp.array([3, -1, 0, 1]))).any(1).tolist() == [True, True, False, False]
    assert len(traces) == 1
    assert np.abs(wanted["one"] - wanted[None]).max() > 1e-2


def test_takes_texts_and_a_backbone_of_its_own():
    x = texts("bert")
    net = network(backbone=NETS["bert"], head=heads.linear(2))
    variables = random_variables(net, x)
    adapter = peft.lora(2, (".*/query",))
    mine = randomised(peft.attach(net, variables, adapter, jax.random.key(0))[1])
    bank = peft.bank(net, variables, (".*/query",), slots=1, rank=2).put("mine", mine, adapter)
    rows = bank.rows(["mine", None, "mine"])
    found = jax.jit(lambda v: bank.network.apply(v, Routed(x, rows), train=False)[0].output)(bank.variables)
    run = jax.jit(lambda v: net.apply(v, x, train=False)[0].output)
    merged, alone = run(peft.merge(mine, adapter)), run(variables)
    np.testing.assert_allclose(found, jnp.stack([merged[0], alone[1], merged[2]]), rtol=0, atol=1e-5)


def test_what_would_be_wrong_raises(small):
    net, variables, made, _ = small
    bank = peft.bank(net, variables, WHERE, slots=1, rank=2).put("one", made["one"], ADAPTERS["one"])
    rows = bank.rows(["one"] * 4)
    dora, pissa = peft.lora(2, (".*/query",), magnitude=True), peft.lora(1, (".*/query",), start="pissa")
    for call, said in (
        (lambda: bank.put("two", made["two"], ADAPTERS["two"]), r"the bank is full with \['one'\]"),
        (
            lambda: bank.put("one", made["four"], ADAPTERS["four"]),
            "its rank 4 at 'block2/mlp/up' is above the bank's, 2",
        ),
        (lambda: bank.put("", made["one"], ADAPTERS["one"]), "give the adapter a name"),
        (lambda: bank.put("one", peft.attach(net, variables, dora, jax.random.key(0))[1], dora), "without magnitude"),
        (lambda: bank.put("one", peft.attach(net, variables, pissa, jax.random.key(0))[1], pissa), "start='zero'"),
        (lambda: bank.put("one", made["one"], peft.lora(1, (".*/key",))), "match none of"),
        (lambda: bank.rows(["one", "two"]), r"\['two'\] are not in the bank; there are \['one'\]"),
        (lambda: bank.remove("two"), "not in the bank"),
        (lambda: bank.network.apply(bank.variables, IMAGES, train=False), "a bank takes Routed"),
        (lambda: bank.network.apply(bank.variables, Routed(IMAGES, rows), train=True), "for evaluation"),
        (
            lambda: bank.network.apply(bank.variables, Routed(IMAGES, rows[:2]), train=False),
            "4 rows, and adapter has 2",
        ),
        (lambda: bank.network.apply(bank.variables, Routed(IMAGES, 1.0 * rows), train=False), "a number for each row"),
        (lambda: peft.bank(net, made["one"], WHERE, slots=1, rank=2), "have adapters already"),
        (lambda: peft.bank(net, variables, ("embed",), slots=1, rank=2), "a bank takes dense layers"),
        (lambda: peft.bank(net, variables, WHERE, slots=0, rank=2), "slots=0"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    narrow = peft.bank(net, variables, (r".*/mlp/up",), slots=1, rank=2)
    with pytest.raises(
        ValueError, match=r"adapter at 'block1/attention/query', and the bank has none; there are \['bl"
    ):
        narrow.put("one", made["one"], ADAPTERS["one"])
