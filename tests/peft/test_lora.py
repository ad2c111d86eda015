"""LoRA of convolutions, PiSSA's start and LoRA+'s rates: against NumPy, torch and the networks they start from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_vit import adapter_of, base, randomised, run

from jtl import optim, peft
from jtl.methods.finetune.finetune import finetune
from jtl.model import from_linen
from jtl.nn.layers import Conv
from jtl.params import flatten, select
from jtl.train import make_step


class Body(nn.Module):
    """Strides, padding, groups and a standardised kernel, each of which an adapter has to keep."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(Conv(8, 3, 2, bias=True, name="strided")(x))
        x = nn.relu(Conv(8, (3, 1), padding=(1, 0), groups=2, name="grouped")(x))
        return {"pooled": Conv(4, 3, standardise=1e-5, name="standardised")(x).mean((1, 2))}


@pytest.fixture(scope="module")
def convolutions():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, 3)), jnp.float32)
    net, adapter = from_linen(Body()), peft.lora(2, ("strided", "grouped", "standardised"), alpha=6)
    variables = net.init(jax.random.key(0), x)
    return net, variables, adapter, *peft.attach(net, variables, adapter, jax.random.key(1)), x


def drawn(variables):
    draw = np.random.default_rng(3)
    return variables._replace(
        params=jax.tree.map(lambda a: 0.3 * draw.normal(size=a.shape).astype(np.float32), variables.params)
    )


def test_convolutions_start_as_the_base_and_merge(convolutions):
    net, variables, adapter, adapted, more, x = convolutions

    def run(net, variables):
        return np.asarray(net.apply(variables, x, train=False)[0]["pooled"])

    np.testing.assert_allclose(run(adapted, more), run(net, variables), rtol=0, atol=1e-6)
    changed = drawn(more)
    np.testing.assert_allclose(run(net, peft.merge(changed, adapter)), run(adapted, changed), rtol=0, atol=1e-5)
    assert flatten(more.params)["adapter/grouped/a"].shape == (3, 1, 4, 2)
    a = flatten(more.params)["adapter/strided/a"]
    assert 0.8 * 27**-0.5 < np.abs(a).max() <= 27**-0.5


@pytest.mark.parametrize("kind", ["dora", "ia3", "ranks"])
def test_other_adapters_of_convolutions_start_as_the_base_and_merge(kind, convolutions):
    """And their gradients are those of the network with the merged kernels, by the chain rule through `merge`."""
    net, variables, _, _, _, x = convolutions
    where = ("strided", "grouped", "standardised")
    adapter = {
        "dora": peft.lora(2, where, magnitude=True),
        "ia3": peft.ia3(("grouped",), inputs=("strided",)),
        "ranks": peft.lora(2, where, ranks={"strided": 3, "st.*": 1}, alphas={"grouped": 5.0}),
    }[kind]
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))

    def pooled(net, variables):
        return net.apply(variables, x, train=False)[0]["pooled"]

    np.testing.assert_allclose(pooled(adapted, more), pooled(net, variables), rtol=0, atol=1e-6)
    changed = drawn(more)
    np.testing.assert_allclose(pooled(net, peft.merge(changed, adapter)), pooled(adapted, changed), rtol=0, atol=2e-5)
    if kind == "dora":  # the norm is a constant to the gradient, so `merge` has another
        return
    if kind == "ranks":
        shapes = {path: leaf.shape[-1] for path, leaf in flatten(more.params).items() if path.endswith("/a")}
        assert shapes == {"adapter/strided/a": 3, "adapter/grouped/a": 2, "adapter/standardised/a": 1}

    def loss(run):
        return jax.jit(jax.grad(lambda params: (run(changed._replace(params=params)) ** 2).sum()))

    own = loss(lambda v: pooled(adapted, v))(changed.params)
    merged = loss(lambda v: pooled(net, peft.merge(v, adapter)))(changed.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), own["adapter"], merged["adapter"])


def test_ia3_refuses_convolutions_that_it_could_not_be_merged_into(convolutions):
    net, variables, _, _, _, x = convolutions
    for adapter, said in (
        (peft.ia3((), inputs=("grouped",)), "'grouped' is a convolution in groups, of 4 of 8 channels"),
        (peft.ia3(("standardised",)), "'standardised' is standardised"),
    ):
        adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
        with pytest.raises(ValueError, match=said):
            adapted.apply(more, x, train=False)


def test_a_convolution_is_torchs_two_convolutions(convolutions):
    """As PEFT computes it: by A with the layer's stride and padding, then by B, 1 by 1, times alpha / rank = 3."""
    torch = pytest.importorskip("torch")
    more, x = drawn(convolutions[4]), convolutions[5]
    flat = {name: torch.tensor(np.asarray(leaf)) for name, leaf in flatten(more.params).items()}
    images = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    conv = torch.nn.functional.conv2d
    y = conv(images, flat["strided/kernel"].permute(3, 2, 0, 1), flat["strided/bias"], stride=2, padding=1)
    low = conv(images, flat["adapter/strided/a"].permute(3, 2, 0, 1), stride=2, padding=1)
    expected = y + 3 * conv(low, flat["adapter/strided/b"].T[:, :, None, None])

    class First(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return Conv(8, 3, 2, bias=True, name="strided")(x)

    net = from_linen(First())
    net, _ = peft.attach(net, net.init(jax.random.key(0), x), peft.lora(2, ("strided",), alpha=6), jax.random.key(1))
    params = {name: more.params[name] for name in ("strided",)} | {
        "adapter": {"strided": more.params["adapter"]["strided"]}
    }
    found = net.apply(more._replace(params=params), x, train=False)[0]
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-5)


def test_a_convolution_has_gradients_of_the_adapter(convolutions):
    _, _, _, adapted, more, x = convolutions
    more = drawn(more)

    def loss(adapter):
        variables = more._replace(params={**more.params, "adapter": adapter})
        return (adapted.apply(variables, x, train=True)[0]["pooled"] ** 2).sum()

    grads = flatten(jax.grad(loss)(more.params["adapter"]))
    assert len(grads) == 6
    assert all(np.abs(leaf).max() > 1e-4 for leaf in grads.values())


def test_pissa_takes_the_largest_singular_values_out_of_the_base(caplog):
    net, variables = base()
    adapter = peft.lora(3, (r"block\d/attention/query", ".*/up", "embed"), alpha=6, start="pissa")
    with caplog.at_level("INFO", "jtl.peft"):
        adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    assert "taken out of the kernels of these modules: ['block1/attention/query', " in caplog.messages[-1]
    np.testing.assert_allclose(run(adapted, more), run(net, variables), rtol=0, atol=2e-5)
    before, after = flatten(variables.params), flatten(more.params)
    for path in ("block1/attention/query", "block2/mlp/up", "embed"):
        kernel = np.asarray(before[f"backbone/{path}/kernel"], np.float64)
        u, values, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
        part = adapter_of(more, path)
        found = 2 * part["a"].reshape(-1, 3) @ part["b"]
        np.testing.assert_allclose(found, (u[:, :3] * values[:3]) @ v[:3], rtol=0, atol=1e-5)
        rest = (u[:, 3:] * values[3:]) @ v[3:]
        np.testing.assert_allclose(after[f"backbone/{path}/kernel"].reshape(rest.shape), rest, rtol=0, atol=1e-5)
        # Both share the values' root, so that neither learns faster.
        np.testing.assert_allclose(np.linalg.norm(part["b"], axis=1), np.sqrt(values[:3] / 2), rtol=1e-4)
    merged = flatten(peft.merge(more, adapter).params)
    for path, leaf in before.items():
        np.testing.assert_allclose(merged[path], leaf, rtol=0, atol=1e-5, err_msg=path)
    changed = randomised(more)
    np.testing.assert_allclose(run(net, peft.merge(changed, adapter)), run(adapted, changed), rtol=0, atol=1e-4)


def test_lora_plus_multiplies_the_steps_of_b():
    net, variables = base()
    net, variables = peft.attach(net, variables, peft.lora(2, (".*/query",)), jax.random.key(1))
    variables, batch = randomised(variables), {"x": np.ones((2, 8, 8, 3), np.float32), "y": np.array([0, 1])}

    def after(tx):
        step = make_step(finetune(net), tx, trainable=select(".*/adapter/.*", "head/.*"))
        state = jax.jit(step)(step.init(variables, jax.random.key(0)), batch)[0]
        before = flatten(variables.params)
        return {p: np.asarray(leaf, np.float64) - before[p] for p, leaf in flatten(state.params).items()}

    plain, plus = after(optax.sgd(0.1)), after(optax.chain(optax.sgd(0.1), optim.scale(peft.lora_plus(4.0))))
    for path, change in plain.items():
        factor = 4 if path.endswith("/b") else 1
        np.testing.assert_allclose(plus[path], factor * change, rtol=1e-3, atol=1e-6, err_msg=path)
    assert max(np.abs(change).max() for path, change in plain.items() if path.endswith("/b")) > 1e-4


def test_what_would_be_wrong_raises(convolutions):
    net, variables, _, _, _, _ = convolutions
    with pytest.raises(ValueError, match="'strided' is a convolution"):
        peft.attach(net, variables, peft.lora(2, ("strided",), dropout=0.1), jax.random.key(0))
    for adapter, pattern in (
        (peft.lora(2, ("strided",), ranks={"stride": 3}), "stride"),
        (peft.lora(2, ("strided",), alphas={"grouped": 3.0}), "grouped"),
    ):
        with pytest.raises(ValueError, match=f"'{pattern}'.*match none of the adapted modules"):
            peft.attach(net, variables, adapter, jax.random.key(0))
    with pytest.raises(ValueError, match=r"ranks\['strided'\]=0"):
        peft.lora(2, ("strided",), ranks={"strided": 0})
    with pytest.raises(ValueError, match=r"alphas\['strided'\]=0"):
        peft.lora(2, ("strided",), alphas={"strided": 0.0})
    with pytest.raises(ValueError, match="'strided' has 8 singular values"):
        peft.attach(net, variables, peft.lora(9, ("strided",), start="pissa"), jax.random.key(0))
    with pytest.raises((ValueError, TypeError), match="olora"):  # a checked annotation raises first
        peft.lora(2, ("strided",), start="olora")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="ratio=0"):
        peft.lora_plus(0)
    odd = variables._replace(params={"strided": {"kernel": jnp.ones((2, 3, 4))}})
    with pytest.raises(ValueError, match="dense layers"):
        peft.attach(net, odd, peft.lora(2, ("strided",)), jax.random.key(0))


def test_dora_leaves_an_output_whose_kernel_is_zero_as_it_is():
    """A pruned output: its kernel has no direction, and 0 / 0 would be NaN in every layer above."""
    net, variables = base()
    kernels = [a for path, a in flatten(variables.params).items() if path.endswith("query/kernel")]
    assert kernels
    for kernel in kernels:
        kernel[:, 0] = 0
    adapter = peft.lora(2, (".*/query",), magnitude=True)
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    wanted = run(net, variables)
    np.testing.assert_allclose(run(adapted, more), wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(net, peft.merge(more, adapter)), wanted, rtol=0, atol=1e-6)
