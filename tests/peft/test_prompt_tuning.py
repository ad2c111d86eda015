"""Prompts of real words against the text that begins with these words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prompted import NETS, WORDS, random_variables, run, texts

from jtl import backbones, heads, peft
from jtl.networks import network
from jtl.ops import mean_of_tokens
from jtl.params import select, split

COUNT = len(WORDS)


@pytest.mark.parametrize("kind", NETS)
def test_a_prompt_of_words_is_the_text_that_begins_with_them(kind):
    """Every feature of a text's tokens; `mean` is theirs; pooled is the last token's, or the first one's of the two."""
    net, x, longer = NETS[kind], texts(kind), texts(kind, WORDS)
    variables = random_variables(net, x)
    wanted, mask = run(net, variables, longer), x["mask"]
    first = kind in ("bert", "roberta")
    for pool in ("text", "prompt") if first else ("text",):
        adapter = peft.prompt_tuning(COUNT, words=WORDS, pool=pool)
        prompted, more = peft.attach(net, variables, adapter, jax.random.key(0))
        found = run(prompted, more, x)
        assert found.keys() == wanted.keys()
        for name in found.keys() - {"mean", "pooled"}:
            ours, theirs = found[name] * mask[..., None], wanted[name][:, COUNT:] * mask[..., None]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, err_msg=name)
        mean = mean_of_tokens(wanted["last"][:, COUNT:], jnp.asarray(mask))
        np.testing.assert_allclose(found["mean"], mean, rtol=0, atol=1e-5)
        pooled = wanted["pooled"]
        if first and pool == "text":
            dense = {name: np.asarray(a) for name, a in variables.params["pooler"].items()}
            pooled = np.tanh(np.asarray(wanted["last"])[:, COUNT] @ dense["kernel"] + dense["bias"][None])
        np.testing.assert_allclose(found["pooled"], pooled, rtol=0, atol=1e-5)
    without = run(net, variables, x)["pooled"]
    assert np.abs(without - found["pooled"]).max() > 1e-2


def test_starts_at_words_and_trains_alone():
    """The start is rows of the words' table; the gradient of a loss on a head reaches every number of the prompt."""
    net, x = network(backbone=NETS["bert"], head=heads.linear(2)), texts("bert")
    variables = random_variables(net, x)
    net, variables = peft.attach(net, variables, peft.prompt_tuning(2), jax.random.key(3))
    table = variables.params["backbone"]["words"]["embedding"]
    prompt = variables.params["backbone"]["adapter"]["words"]["prompt"]
    assert all((table == row[None]).all(1).any() for row in np.asarray(prompt))
    learned, _ = split(variables.params, select("backbone/adapter/.*"))
    assert jax.tree.leaves(learned)[0].shape == (2, 16)

    def loss(prompt):
        params = {**variables.params, "backbone": {**variables.params["backbone"]}}
        params["backbone"]["adapter"] = {"words": {"prompt": prompt}}
        return (net.apply(variables._replace(params=params), x, train=False)[0].output ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(prompt)
    assert np.isfinite(gradient).all()
    assert (gradient != 0).all()
    made = jax.eval_shape(net.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)


def test_what_would_be_wrong_raises():
    net, x = NETS["gpt2"], texts("gpt2")
    variables = random_variables(net, x)
    prompted, more = peft.attach(net, variables, peft.prompt_tuning(2), jax.random.key(0))
    with pytest.raises(ValueError, match=r"\['ids', 'mask', 'places'\]: prompt tuning takes"):
        prompted.apply(more, {**x, "places": x["ids"]}, train=False)
    with pytest.raises(ValueError, match="texts of 13 tokens"):
        peft.attach(net, variables, peft.prompt_tuning(7), jax.random.key(0))[0].apply(more, x, train=False)
    with pytest.raises(ValueError, match="has the ids 0 to 29"):
        peft.attach(net, variables, peft.prompt_tuning(1, words=(30,)), jax.random.key(0))
    with pytest.raises(ValueError, match="have an adapter already"):
        peft.attach(prompted, more, peft.prompt_tuning(2), jax.random.key(0))
    with pytest.raises(ValueError, match="tokens of the input"):
        peft.merge(more, peft.prompt_tuning(2))
    image = backbones.mlp((4,))
    with pytest.raises(ValueError, match=r"\['words'\] match no module"):
        peft.attach(image, image.init(jax.random.key(0), jnp.ones((1, 2))), peft.prompt_tuning(2), jax.random.key(0))
    for options, said in (
        ({"count": 0}, "count=0"),
        ({"count": 2, "words": (1,)}, "give count=2"),
    ):
        with pytest.raises(ValueError, match=said):
            peft.prompt_tuning(**options)
