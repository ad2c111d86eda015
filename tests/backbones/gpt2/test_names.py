"""GPT-2 against transformers' on randomised weights and padded texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import close, renamed, same_bits, same_gradients, tree_of
from running import forward
from safetensors.numpy import load_file, save_file

from jtl import backbones
from jtl.methods.finetune.finetune import predictor
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.save import save

SIZES = {
    "even": {"n_embd": 12, "n_layer": 2, "n_head": 3},
    "odd": {"n_embd": 15, "n_layer": 3, "n_head": 5, "n_inner": 22, "n_positions": 9},
}


@pytest.fixture
def references():
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    import text_references

    return text_references


def made(kind, **measures):
    import transformers
    from torch_resnets import randomise

    dropout = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
    options = {"vocab_size": 40, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0, **dropout, **measures}
    return randomise(getattr(transformers, kind)(transformers.GPT2Config(**options))).eval()


def positioned(given):
    """With the positions that transformers' `generate` counts: padding has none."""
    mask = given["attention_mask"]
    return {**given, "position_ids": (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)}


def compare(features, net, x, mask, tolerance):
    """Every feature that transformers tells; the words' logits are given back."""
    out = net.transformer(**x, output_hidden_states=True)
    wanted = {f"stage{i}": h for i, h in enumerate(out.hidden_states[1:-1], 1)} | {"last": out.last_hidden_state}
    rows = out.last_hidden_state
    wanted["pooled"] = rows[np.arange(len(mask)), mask.sum(1) - 1]
    weights = x["attention_mask"][:, :, None].to(rows.dtype)
    wanted["mean"] = (rows * weights).sum(1) / weights.sum(1)
    theirs = net(**x).logits
    wanted["logits"] = theirs
    for name, value in wanted.items():
        close(features[name], value.detach(), tolerance, name)
    # The last block's output before the last normalisation is not told.
    assert set(features) - set(wanted) == {f"stage{net.config.n_layer}"}
    return theirs


@pytest.mark.parametrize("size", SIZES)
def test_is_transformers_network(references, size, tmp_path):
    """Features and logits to 1e-5 in float32, evaluating; to 1e-10 in float64, training, with gradients to 1e-9."""
    net = made("GPT2LMHeadModel", **SIZES[size])
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), references.texts("roberta")

    def run(params, loaded, train):
        run = forward(loaded.network, train=train)
        return run(loaded.variables._replace(params=params), x, None)[0]

    features = jax.jit(lambda p: run(p, loaded, False))(loaded.variables.params)
    given = positioned(references.to_torch(x))
    compare(features, net, given, x["mask"], 1e-5)
    with jax.enable_x64(True):
        exact = load(tmp_path, dtype=jnp.float64)

        def loss(params):
            features = run(params, exact, True)
            return (jnp.sin(features["logits"]) * x["mask"][:, :, None]).sum(), features

        grads, features = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params)
    theirs = compare(features, net.double().train(), given, x["mask"], 1e-10)
    (theirs.sin() * given["attention_mask"][:, :, None]).sum().backward()
    from torch_vits import gradients

    gradients(net, tmp_path / "gradients")
    same_gradients(grads, tmp_path / "gradients")


def test_padding_before_a_text_changes_nothing(references, tmp_path):
    """As transformers has it given its positions; called without them it counts padding, and each text moves."""
    import torch

    net = made("GPT2LMHeadModel", **SIZES["even"])
    net.save_pretrained(tmp_path)
    loaded, right = load(tmp_path), references.texts("roberta")
    left = {name: value[:, ::-1].copy() for name, value in right.items()}
    for ids, mask, given in zip(left["ids"], left["mask"], right["ids"], strict=True):
        ids[mask] = given[: mask.sum()]
    run = jax.jit(lambda x: forward(loaded.network, train=False)(loaded.variables, x, None)[0])
    found, mask = run(left), left["mask"]
    with torch.no_grad():
        theirs = net(**positioned(references.to_torch(left)), output_hidden_states=True)
        moved = net(**references.to_torch(left)).logits
    close(np.asarray(found["logits"])[mask], theirs.logits.numpy()[mask], 1e-5, "logits")
    close(found["pooled"], theirs.hidden_states[-1][:, -1], 1e-5, "pooled")
    for name in ("pooled", "mean"):
        close(found[name], np.asarray(run(right)[name]), 1e-5, name)
    assert np.abs((moved - theirs.logits).numpy()[mask]).max() > 0.1


def test_tokens_see_each_other_where_the_config_says_so(references, tmp_path):
    net, x = made("GPT2LMHeadModel", **SIZES["even"], is_causal=False), references.texts("roberta")
    net.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    found = forward(loaded.network, train=False)(loaded.variables, x, None)[0]
    compare(found, net, positioned(references.to_torch(x)), x["mask"], 1e-5)


def test_given_segments_and_places_are_transformers_ids(references, tmp_path):
    """Segments are ids, whose words' embeddings are added."""
    import torch

    net, x = made("GPT2LMHeadModel", **SIZES["even"]), references.texts("roberta")
    net.save_pretrained(tmp_path)
    loaded, draw = load(tmp_path), np.random.default_rng(2)
    x["places"] = draw.integers(0, 16, x["ids"].shape).astype(np.int32)
    x["segments"] = draw.integers(0, 40, x["ids"].shape).astype(np.int32)
    run = jax.jit(lambda x: forward(loaded.network, train=False)(loaded.variables, x, None)[0])
    with torch.no_grad():
        wanted = net(**references.to_torch(x)).logits.numpy()
    close(np.asarray(run(x)["logits"])[x["mask"]], wanted[x["mask"]], 1e-5, "logits")


def test_untied_words_give_no_logits(references, tmp_path):
    made("GPT2Model", **SIZES["even"], tie_word_embeddings=False).save_pretrained(tmp_path)
    loaded, x = load(tmp_path), references.texts("roberta")
    assert (
        "logits"
        not in loaded.backbone.apply(
            loaded.variables._replace(params=loaded.variables.params["backbone"]), x, train=False
        )[0]
    )


def test_names_go_there_and_back(references, tmp_path):
    """With the prefix and without, with the copies and triangles of old files."""
    made("GPT2LMHeadModel", **SIZES["even"]).save_pretrained(tmp_path)
    loaded, held = load(tmp_path), load_file(tmp_path / "model.safetensors")
    same_bits(renamed(loaded, "transformers"), held)
    old = {n.removeprefix("transformer."): a for n, a in held.items()}
    extra = {"lm_head.weight": old["wte.weight"].copy(), "h.0.attn.bias": np.ones((1, 1, 16, 16), np.uint8)}
    save_file(old | extra, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert set(again.report.unused) == set(extra)
    same_bits(flatten(tree_of(again)), flatten(tree_of(loaded)))


# Parameters of the published models, as transformers counts them.
@pytest.mark.parametrize(
    ("size", "total"),
    [("distil", 81_912_576), ("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080)],
)
def test_sizes_are_the_published_ones(key, size, total):
    x = {"ids": np.ones((1, 2), np.int32), "mask": np.ones((1, 2), bool)}
    made = jax.eval_shape(backbones.gpt2(size).init, key, x)
    assert sum(a.size for a in jax.tree.leaves(made.params)) == total


def test_a_token_sees_none_after_it(key):
    net = backbones.gpt2(backbones.Size(8, 2, 2, 12), vocabulary=20, positions=8)
    x = {"ids": np.arange(12, dtype=np.int32).reshape(2, 6), "mask": np.ones((2, 6), bool)}
    v, run = net.init(key, x), jax.jit(lambda v, x: net.apply(v, x, train=False)[0]["last"])
    later = {**x, "ids": np.where(np.arange(6)[None] < 4, x["ids"], 19).astype(np.int32)}
    before, after = (np.asarray(run(v, given)) for given in (x, later))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()
    with pytest.raises(ValueError, match="9 tokens: this network takes at most 8"):
        net.apply(v, {"ids": np.ones((1, 9), np.int32), "mask": np.ones((1, 9), bool)}, train=False)


def test_transformers_loads_a_classifier(references, tmp_path):
    """Its head has no bias, and finds the last token by the padding."""
    import torch
    import transformers

    made("GPT2LMHeadModel", **SIZES["even"]).save_pretrained(tmp_path / "in")
    names, x = ("low", "mid", "high"), references.texts("bert")
    x.pop("types")
    loaded = load(tmp_path / "in", classes=names, reinit=("head/.*",))
    assert set(loaded.variables.params["head"]["out"]) == {"kernel"}
    save(tmp_path / "out", loaded)
    theirs, account = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    assert isinstance(theirs, transformers.GPT2ForSequenceClassification)
    assert tuple(theirs.config.id2label.values()) == names
    again = load(tmp_path / "out")
    assert again.labels == names
    same_bits(flatten(tree_of(again)), flatten(tree_of(loaded)))
    ours = jax.jit(predictor(again.network))(again.variables, x)
    with torch.no_grad():
        close(ours, theirs.eval()(**references.to_torch(x)).logits, 1e-5, "logits")


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model"])
def test_transformers_loads_what_was_read(references, kind, tmp_path):
    """The same hidden states and words' logits, bit by bit, whichever class reads it."""
    import torch
    import transformers

    net = made(kind, **SIZES["odd"])
    net.save_pretrained(tmp_path / "in")
    save(tmp_path / "out", load(tmp_path / "in"))
    x = references.to_torch(references.texts("roberta"))
    for reader in (transformers.AutoModel, transformers.AutoModelForCausalLM):
        theirs, account = reader.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not any(account.values()), account
        with torch.no_grad():
            found, wanted = theirs(**x), net(**x)
            words = (found.get("logits"), wanted.get("logits"))
            hidden = (found.get("last_hidden_state"), wanted.get("last_hidden_state"))
        for ours, other in (words, hidden):
            if ours is not None and other is not None:
                torch.testing.assert_close(ours, other, rtol=0, atol=0)
    wrapped = getattr(theirs, "transformer", theirs).state_dict()
    base = getattr(net, "transformer", net).state_dict()
    same_bits({n: a.numpy() for n, a in wrapped.items()}, {n: a.numpy() for n, a in base.items()})
