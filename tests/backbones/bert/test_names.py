"""BERT, RoBERTa and DistilBERT against transformers' on randomised weights and padded texts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import close, follow, same_bits, same_gradients, same_outputs, tree_of
from running import forward
from safetensors.numpy import load_file, save_file

from jtl import backbones
from jtl.backbones.family import HEADLESS
from jtl.backbones.registry import FAMILIES
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights.formats.errors import WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from text_references import hf_text, texts, to_torch
from torch_resnets import randomise
from torch_vits import gradients

KINDS = ("bert", "roberta", "distilbert")
# Two sizes, one odd; of the second every other activation.
SIZES = {
    "even": {"width": 12, "depth": 2, "heads": 3},
    "odd": {"width": 15, "depth": 1, "heads": 5, "classes": 5, "positions": 11, "activation": "gelu_new"},
}
HEADS = {"bert": r"cls\..*", "roberta": r"lm_head\..*", "distilbert": r"vocab_.*"}


def references(net, kind, x):
    """Logits and features of transformers; the means are those of sentence-transformers."""
    given = to_torch(x)
    base = getattr(net, kind)
    out = base(**given, output_hidden_states=True)
    last = out.last_hidden_state
    weights = given["attention_mask"][:, :, None].to(last.dtype)
    found = {f"stage{i}": h for i, h in enumerate(out.hidden_states[1:], 1)} | {"last": last}
    found["mean"] = (last * weights).sum(1) / weights.sum(1)
    if kind == "bert":
        found["pooled"] = out.pooler_output
    elif kind == "roberta":
        found["pooled"] = torch.tanh(net.classifier.dense(last[:, 0]))
    else:
        found["pooled"] = torch.relu(net.pre_classifier(last[:, 0]))
    return net(**given).logits, found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_is_transformers_network(kind, size, tmp_path):
    """Features and logits to 1e-5 in float32, evaluating; to 1e-10 in float64, training, with gradients to 1e-9."""
    net = hf_text(kind, **SIZES[size])
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), texts(kind, 9 if size == "odd" else 7)
    assert loaded.naming == "transformers"
    run = forward(loaded.network, train=False)
    features, logits, _ = jax.jit(lambda v, x: run(v, x, None))(loaded.variables, x)
    same_outputs(features, logits, *references(net, kind, x), 1e-5)
    with jax.enable_x64(True):
        exact = load(tmp_path, dtype=jnp.float64)

        def loss(params):
            train = forward(exact.network, train=True)
            features, logits, _ = train(exact.variables._replace(params=params), x, None)
            return jnp.sin(logits).sum(), (features, logits)

        grads, (features, logits) = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params)
    theirs, wanted = references(net.double().train(), kind, x)
    same_outputs(features, logits, theirs, wanted, 1e-10)
    theirs.sin().sum().backward()
    gradients(net, tmp_path / "gradients")
    same_gradients(grads, tmp_path / "gradients")


@pytest.mark.parametrize("kind", KINDS)
def test_given_segments_and_places_are_transformers_ids(kind, tmp_path):
    """RoBERTa has one kind of segment, DistilBERT none."""
    net, x = hf_text(kind, "Model"), texts(kind)
    net.save_pretrained(tmp_path)
    loaded, draw = load(tmp_path), np.random.default_rng(2)
    x["places"] = draw.integers(0, 16, x["ids"].shape).astype(np.int32)
    x["segments"] = x.pop("types", np.zeros_like(x["ids"]))
    if kind == "distilbert":
        del x["segments"]
    run = forward(loaded.network, train=False)
    features, *_ = jax.jit(lambda v: run(v, x, None))(loaded.variables)
    with torch.no_grad():
        last = net(**to_torch(x)).last_hidden_state
    mask = x["mask"]
    close(np.asarray(features["last"])[mask], last[torch.tensor(mask)], 1e-5, "last")
    counted = {**x, "places": None}
    del counted["places"]
    other, *_ = jax.jit(lambda v: run(v, counted, None))(loaded.variables)
    assert np.abs(np.asarray(other["last"] - features["last"])[mask]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_is_written_as_it_was_read(kind, tmp_path):
    hf_text(kind).save_pretrained(tmp_path / "in")
    save(tmp_path / "out", load(tmp_path / "in"))
    same_bits(*(load_file(tmp_path / f / "model.safetensors") for f in ("out", "in")))
    theirs, account = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    given = to_torch(texts(kind))
    with torch.no_grad():
        torch.testing.assert_close(theirs(**given).logits, hf_text(kind)(**given).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_a_head_embeds(kind, tmp_path):
    """Names without the prefix; DistilBERT's has no pooler, so the first token is pooled."""
    net = hf_text(kind, "Model")
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), texts(kind)
    assert loaded.naming == ("transformers, headless" if kind == "distilbert" else "transformers")
    run = forward(loaded.network, train=False)
    features, logits, _ = jax.jit(lambda v: run(v, x, None))(loaded.variables)
    with torch.no_grad():
        out = net(**to_torch(x))
    close(features["last"], out.last_hidden_state, 1e-5, "last")
    close(logits, out.last_hidden_state[:, 0] if kind == "distilbert" else out.pooler_output, 1e-5, "pooled")
    save(tmp_path / "out", loaded)
    again, account = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(account.values()), account
    same_bits(
        {n: a.numpy() for n, a in again.state_dict().items()}, {n: a.numpy() for n, a in net.state_dict().items()}
    )
    same_bits(flatten(tree_of(load(tmp_path / "out"))), flatten(tree_of(loaded)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_masked_words_becomes_a_classifier(kind, tmp_path):
    """What is missing or left over is only so by request, and transformers loads what comes out."""
    hf_text(kind, "ForMaskedLM").save_pretrained(tmp_path / "in")
    with pytest.raises(WeightNameError, match="have no parameter"):
        load(tmp_path / "in")
    unused = (HEADS[kind],)
    assert load(tmp_path / "in", unused=unused).naming == "transformers, headless"
    with pytest.raises(WeightNameError, match=r"backbone/pooler/kernel"):
        load(tmp_path / "in", unused=unused, classes=2, reinit=("head/.*",))
    loaded = load(tmp_path / "in", unused=unused, classes=2, reinit=("head/.*", "backbone/pooler/.*"))
    save(tmp_path / "out", loaded)
    theirs, account = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    x = texts(kind)
    run = forward(loaded.network, train=False)
    ours = jax.jit(lambda v: run(v, x, None)[1])(loaded.variables)
    with torch.no_grad():
        close(ours, theirs.eval()(**to_torch(x)).logits, 1e-5, "logits")


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_of_tokens_gives_its_encoder(kind, tmp_path):
    """Its classifier is not led to by a pooler, and is none of whole texts behind a new one."""
    net = hf_text(kind, "ForTokenClassification")
    net.save_pretrained(tmp_path)
    with pytest.raises(WeightNameError, match="2 tensors of the file have no parameter") as caught:
        load(tmp_path)
    options = follow(str(caught.value))
    assert options == {"unused": (r"classifier\..*",)}
    loaded, x = load(tmp_path, **options), texts(kind)
    assert loaded.variables.params["head"] == {}
    features = jax.jit(lambda v: forward(loaded.network, train=False)(v, x, None)[0])(loaded.variables)
    with torch.no_grad():
        close(features["last"], getattr(net, kind)(**to_torch(x)).last_hidden_state, 1e-5, "last")


def with_pooler(net, folder):
    """A network's folder as versions 2 and 3 of transformers wrote it, with its encoder's pooler."""
    net.save_pretrained(folder)
    kind = net.config.model_type
    part = f"{kind}.pooler.dense"
    drawn = np.random.default_rng(3).normal(size=(12, 12)).astype(np.float32)
    old = {**load_file(folder / "model.safetensors"), f"{part}.weight": drawn, f"{part}.bias": drawn[0]}
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    return [f"{part}.bias", f"{part}.weight"]


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_head_on_tokens_passes_over_an_old_pooler(kind, head, tmp_path):
    """With it the classes of tokens would be taken for those of texts."""
    layer = r"qa_outputs\..*" if head == "ForQuestionAnswering" else r"classifier\..*"
    poolers = with_pooler(hf_text(kind, head), tmp_path)
    with pytest.raises(WeightNameError, match="2 tensors of the file have no parameter"):
        load(tmp_path)
    loaded = load(tmp_path, unused=(layer,))
    assert loaded.naming == HEADLESS
    assert set(loaded.report.unused) > set(poolers)
    assert loaded.variables.params["head"] == {}
    new = load(tmp_path, unused=(layer,), classes=2, reinit=("head/.*",)).report
    assert set(poolers) < {one.name for one in new.loaded}


def test_robertas_classifier_goes_before_an_old_pooler(tmp_path):
    """As roberta-large-mnli has both: transformers computes with the classifier's layer alone."""
    net, x = hf_text("roberta"), texts("roberta")
    poolers = with_pooler(net, tmp_path)
    loaded = load(tmp_path)
    assert set(loaded.report.unused) == set(poolers)
    with torch.no_grad():
        wanted = net(**to_torch(x)).logits
    close(forward(loaded.network, train=False)(loaded.variables, x, None)[1], wanted, 1e-5, "logits")


@pytest.mark.parametrize("name", ["XLMRoberta", "Camembert"])
def test_robertas_of_other_names(name, tmp_path):
    """By the usual vocabulary of the other, and written as a RoBERTa of the same logits."""
    config = getattr(transformers, f"{name}Config")
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    net = randomise(getattr(transformers, f"{name}ForSequenceClassification")(config(**sizes))).eval()
    net.save_pretrained(tmp_path / "in")
    told = json.loads((tmp_path / "in" / "config.json").read_text())
    assert told.pop("vocab_size") == 30522
    (tmp_path / "in" / "config.json").write_text(json.dumps(told))
    loaded, x = load(tmp_path / "in"), texts("roberta")
    ours = jax.jit(lambda v: forward(loaded.network, train=False)(v, x, None)[1])(loaded.variables)
    save(tmp_path / "out", loaded)
    again, account = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    with torch.no_grad():
        wanted = net(**to_torch(x)).logits
        torch.testing.assert_close(again.eval()(**to_torch(x)).logits, wanted, rtol=0, atol=0)
    close(ours, wanted, 1e-5, "logits")


def test_legacy_names(tmp_path):
    """`gamma` and `beta`, and the buffer of positions."""
    hf_text("bert").save_pretrained(tmp_path)
    before = load(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for n in held}
    assert len(old - held.keys()) == 10
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): a
        for n, a in held.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(16, dtype=np.int64)[None]
    save_file(old, tmp_path / "model.safetensors")
    after = load(tmp_path)
    assert after.report.unused == ["bert.embeddings.position_ids"]
    same_bits(flatten(tree_of(after)), flatten(tree_of(before)))


def test_a_pretrained_pooler_becomes_robertas_classifier(tmp_path):
    """RobertaModel's pooler and the classifier's first layer are the same function of the first token."""
    net = hf_text("roberta", "Model")
    net.save_pretrained(tmp_path / "in")
    save(tmp_path / "out", load(tmp_path / "in", classes=2, reinit=("head/.*",)))
    held = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(held["classifier.dense.weight"], net.pooler.dense.weight.detach())
    assert not any("pooler" in name for name in held)


def test_distilbert_drops_nothing_after_its_attention(key):
    """transformers' block, whose perceptron gives 0 here, is the same in training; so is the one that is read."""
    from transformers.models.distilbert.modeling_distilbert import TransformerBlock

    measures = {"dim": 12, "n_heads": 3, "hidden_dim": 8, "dropout": 0.5, "attention_dropout": 0.0}
    theirs = TransformerBlock(transformers.DistilBertConfig(**measures, attn_implementation="eager"))
    for parameter in theirs.ffn.lin2.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.arange(60.0).reshape(1, 5, 12).sin()
    with torch.no_grad():
        torch.testing.assert_close(theirs.train()(x), theirs.eval()(x), rtol=0, atol=0)
    rates = {"dropout": 0.5, "attention_dropout": 0.0}
    config = {"model_type": "distilbert", "n_layers": 1, "vocab_size": 40, **measures}
    read = FAMILIES["distilbert"].backbone(FAMILIES["distilbert"].complete(config, HEADLESS))
    size, x = backbones.Size(12, 1, 3, 8), texts("distilbert")
    variables = read.init(key, x)
    found = []
    for out_dropout in (0.0, None):
        net = backbones.bert(size, vocabulary=40, types=0, pooler=None, out_dropout=out_dropout, **rates)
        found.append(jax.jit(lambda v, net=net: net.apply(v, x, train=True, key=key)[0]["last"])(variables))
    ours = jax.jit(lambda v: read.apply(v, x, train=True, key=key)[0]["last"])(variables)
    np.testing.assert_array_equal(ours, found[0])
    assert not np.array_equal(ours, found[1])
