"""Prefixes of a real text's keys and values against the text that begins with it; attention in NumPy."""

import jax
import numpy as np
import pytest
from prompted import NETS, WORDS, put, random_variables, run, texts
from small_vit import IMAGES, base

from jtl import peft
from jtl.transform.intercept import intercepted

COUNT = len(WORDS)


def keys_and_values(net, variables, x):
    """What each attention is given for the first text, as an adapter's leaves."""
    found = {}

    class Seen:
        count = 1

        def __call__(self, run, args, kwargs, call):
            if call.method == "attend" and call.path != "words":
                for name, y in zip(("key", "value"), args[1:3], strict=True):
                    found[f"adapter/{call.path}/{name}"] = y[0]
            return run(*args, **kwargs)

    intercepted(net, Seen, "").apply(variables, x, train=False)
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_keys_and_values_of_words_are_the_text_that_begins_with_them(kind):
    """In a causal network the words before a text are seen by their keys and values alone, rotated in Llama."""
    net, x, longer = NETS[kind], texts(kind), texts(kind, WORDS)
    variables = random_variables(net, x)
    words = {"ids": longer["ids"][:1, :COUNT], "mask": longer["mask"][:1, :COUNT]}
    prefixed, more = peft.attach(net, variables, peft.prefix_tuning(COUNT), jax.random.key(0))
    step = 2 if kind == "llama" else 1  # two heads share a key
    values = {path: y[:, ::step].reshape(COUNT, -1) for path, y in keys_and_values(net, variables, words).items()}
    found, wanted = run(prefixed, put(more, values), x), run(net, variables, longer)
    mask = x["mask"][..., None]
    for name in ("stage1", "last", "logits"):
        np.testing.assert_allclose(found[name] * mask, wanted[name][:, COUNT:] * mask, rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["pooled"], wanted["pooled"], rtol=0, atol=1e-5)
    assert np.abs(run(net, variables, x)["pooled"] - found["pooled"]).max() > 1e-2


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_does_not_see_padding_and_has_its_positions_after_the_prefix(kind):
    """A prefix whose keys are −∞ to every query changes positions alone, which `places` gives to the base."""
    net, x = NETS[kind], texts(kind)
    variables = random_variables(net, x)
    prefixed, more = peft.attach(net, variables, peft.prefix_tuning(2), jax.random.key(0))
    found = run(prefixed, more, x)
    padded = {name: np.pad(a, ((0, 0), (0, 2)), constant_values=name == "ids") for name, a in x.items()}
    np.testing.assert_allclose(run(prefixed, more, padded)["pooled"], found["pooled"], rtol=0, atol=1e-5)
    # Attention to keys of 0 with values of 0 divides by more: exp(l) / (2 + Σ exp(l)).
    seen = {}

    class Watching:
        count = 1

        def __call__(self, run, args, kwargs, call):
            y = run(*args, **kwargs)
            if call.method == "attend" and call.path == "block1/attention":
                seen.update(args=args, y=y)
            return y

    zeros = put(more, {f"adapter/block1/attention/{name}": np.zeros((2, 16), np.float32) for name in ("key", "value")})
    intercepted(prefixed, Watching, "").apply(zeros, x, train=False)
    query, key, value, mask = (np.asarray(a) for a in seen["args"][:4])
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / 2) * mask
    wanted = np.einsum("bhqk,bkhd->bqhd", weights, value)
    total = 2 + weights.sum(-1)
    np.testing.assert_allclose(seen["y"], wanted / total.transpose(0, 2, 1)[..., None], rtol=0, atol=1e-5)
    start = 2 if kind == "bert" else 4  # RoBERTa counts from pad + 1
    places = np.where(x["mask"], start + np.arange(6)[None], 1).astype(np.int32)
    first = run(net, variables, {**x, "places": places})

    class Closed(Watching):
        def __call__(self, run, args, kwargs, call):
            if call.method == "attend":
                args = (*args[:3], args[3].at[..., :2].set(False), *args[4:])
            return run(*args, **kwargs)

    # Attached before the prefix, so that it sees the prefix's keys.
    closed = peft.attach(intercepted(net, Closed, ""), variables, peft.prefix_tuning(2), jax.random.key(0))
    np.testing.assert_allclose(run(*closed, x)["pooled"], first["pooled"], rtol=0, atol=1e-5)


def test_a_vision_transformer_takes_a_prefix():
    """Order does not matter among keys, and features keep their length; the gradient reaches every key and value."""
    net, variables = base()
    prefixed, more = peft.attach(net, variables, peft.prefix_tuning(3, deviation=1.0), jax.random.key(0))

    def output(params):
        return prefixed.apply(more._replace(params=params), IMAGES, train=False)[0]

    found = jax.jit(output)(more.params)
    turned = jax.tree.map(lambda a: a, more.params)
    for block in ("block1", "block2"):
        part = turned["backbone"]["adapter"][block]["attention"]
        turned["backbone"]["adapter"][block]["attention"] = {name: leaf[::-1] for name, leaf in part.items()}
    np.testing.assert_allclose(jax.jit(output)(turned).output, found.output, rtol=0, atol=1e-5)
    assert found.features["stage1"].shape == (4, 5, 16)
    gradient = jax.jit(jax.grad(lambda p: (output(p).output ** 2).sum()))(more.params)["backbone"]["adapter"]
    assert all((np.asarray(leaf) != 0).all() for leaf in jax.tree.leaves(gradient))


def test_what_would_be_wrong_raises():
    net, x = NETS["roberta"], texts("roberta")
    variables = random_variables(net, x)
    prefixed, more = peft.attach(net, variables, peft.prefix_tuning(7), jax.random.key(0))
    with pytest.raises(ValueError, match="a prefix of 7 leaves positions for 5"):
        prefixed.apply(more, x, train=False)
    with pytest.raises(ValueError, match=r"\['block1/mlp'\] match no module; there are \['block1/attention'"):
        peft.attach(net, variables, peft.prefix_tuning(2, ("block1/mlp",)), jax.random.key(0))
    with pytest.raises(ValueError, match="no kernel gives"):
        peft.merge(more, peft.prefix_tuning(7))
    for options, said in (({"count": 0}, "count=0"), ({"count": 1, "deviation": 0.0}, "deviation=0")):
        with pytest.raises(ValueError, match=said):
            peft.prefix_tuning(**options)
