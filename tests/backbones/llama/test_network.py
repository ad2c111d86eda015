"""Llama, Mistral, Qwen2 and Qwen3 against transformers' on randomised weights and padded texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import close, same_gradients
from running import forward

from jtl import backbones
from jtl.backbones.registry import FAMILIES
from jtl.nn.rotary import Rotary
from jtl.pretrained.load import load

VARIANTS = (
    "llama",
    "llama, tied and biased",
    "mistral",
    "qwen2",
    "qwen2, untied",
    "qwen3",
    "qwen3, tied and biased",
)
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0},
    "yarn, whole": {
        "rope_type": "yarn",
        "factor": 2.0,
        "attention_factor": 1.3,
        "truncate": False,
        "original_max_position_embeddings": 20,
    },
    "yarn, two scales": {
        "rope_type": "yarn",
        "factor": 4.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "original_max_position_embeddings": 16,
    },
}


@pytest.fixture
def references():
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    import llama_references

    return llama_references


def features_of(loaded, params, x, train=False):
    run = forward(loaded.network, train=train)
    return run(loaded.variables._replace(params=params), x, None)[0]


def compare(features, theirs, mask, tolerance):
    """Every feature, at tokens: padding sees nothing of the text."""
    assert set(features) == {*theirs, "mean", "pooled"}
    for name, value in theirs.items():
        close(np.asarray(features[name])[mask], value.detach().numpy()[mask], tolerance, name)
    last = theirs["last"].detach().numpy()
    final = (mask * np.arange(mask.shape[1])).max(1)
    close(features["pooled"], last[np.arange(len(last)), final], tolerance, "pooled")
    close(features["mean"], (last * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True), tolerance, "mean")


def check(references, net, monkeypatch, tmp_path):
    """Features to 1e-5 in float32, evaluating; to 1e-10 in float64, training, with gradients to 1e-9."""
    net.save_pretrained(tmp_path / "net")
    loaded, x = load(tmp_path / "net"), references.texts("right", "left")
    given = references.to_torch(x)
    assert not loaded.report.unused
    features = jax.jit(lambda p: features_of(loaded, p, x))(loaded.variables.params)
    compare(features, references.told(net, given), x["mask"], 1e-5)
    with jax.enable_x64(True):
        exact = load(tmp_path / "net", dtype=jnp.float64)

        def loss(params):
            features = features_of(exact, params, x, train=True)
            return (jnp.sin(features["logits"]) * x["mask"][:, :, None]).sum(), features

        grads, features = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params)
    with monkeypatch.context() as patched:
        other = references.in_float64(net, patched).train()
        theirs = references.told(other, given)
        compare(features, theirs, x["mask"], 1e-10)
        (theirs["logits"].sin() * given["attention_mask"][:, :, None]).sum().backward()
    from torch_vits import gradients

    gradients(other, tmp_path / "gradients")
    same_gradients(grads, tmp_path / "gradients")


@pytest.mark.parametrize("name", VARIANTS)
def test_is_transformers_network(references, name, monkeypatch, tmp_path):
    check(references, references.made(name), monkeypatch, tmp_path)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_stretched_wavelengths_are_transformers(references, scaling, monkeypatch, tmp_path):
    """Heads of 16 channels, so that some wavelengths are kept, some are stretched, and some lie between."""
    rope = {**SCALINGS[scaling], "rope_theta": 50.0}
    net = references.made("qwen3", rope_parameters=rope, head_dim=16)
    check(references, net, monkeypatch, tmp_path)


def test_a_text_beyond_the_longest_grows_the_base(references, monkeypatch, tmp_path):
    """transformers takes the longest text of a batch for all, jtl each text's own length: they agree on one alone."""
    rope = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 50.0}
    net = references.made("llama", rope_parameters=rope, max_position_embeddings=5, hidden_size=32)
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), references.texts("right")
    run = jax.jit(lambda p, x: features_of(loaded, p, x))
    together = run(loaded.variables.params, x)
    for row, tokens in enumerate(x["mask"].sum(1)):
        alone = {name: value[row : row + 1, :tokens] for name, value in x.items()}
        theirs = references.told(references.made("llama", **net.config.to_dict()), references.to_torch(alone))
        compare(run(loaded.variables.params, alone), theirs, alone["mask"], 1e-5)
        close(together["last"][row : row + 1, :tokens], theirs["last"].detach(), 1e-5, "of a batch")
        assert (tokens > 5) == (row < 2)


def test_padding_before_a_text_changes_nothing(references, tmp_path):
    """In transformers neither, whether it is given positions or not: only differences of places are seen."""
    net = references.made("llama")
    net.save_pretrained(tmp_path)
    loaded, left, right = load(tmp_path), references.texts("left"), references.texts("right")
    left["ids"] = np.where(left["mask"], np.sort(left["ids"], 1), 0)
    right["ids"] = np.zeros_like(right["ids"])
    right["ids"][right["mask"]] = left["ids"][left["mask"]]
    run = jax.jit(lambda x: features_of(loaded, loaded.variables.params, x))
    theirs = references.told(net, references.to_torch(left, counted=False))
    for name, value in theirs.items():
        close(np.asarray(run(left)[name])[left["mask"]], value.detach().numpy()[left["mask"]], 1e-5, name)
        close(np.asarray(run(right)[name])[right["mask"]], value.detach().numpy()[left["mask"]], 1e-5, name)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_tokens_see_each_other_where_the_config_says_so(references, name, tmp_path):
    """Of a batch with padding: without any, transformers' `sdpa` attention is causal nevertheless."""
    net, x = references.made(name, is_causal=False), references.texts("right", "left")
    net.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    theirs = references.told(net, references.to_torch(x))
    compare(features_of(loaded, loaded.variables.params, x), theirs, x["mask"], 1e-5)
    seen = references.told(references.made(name), references.to_torch(x))["last"]
    assert (theirs["last"] - seen).abs()[0, 0].max() > 0.1


def test_given_places_are_transformers_position_ids(references, tmp_path):
    import torch

    net = references.made("qwen2")
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), references.texts("left")
    places = np.random.default_rng(0).integers(0, 30, x["mask"].shape).astype(np.int32)
    given = {**references.to_torch(x), "position_ids": torch.tensor(places, dtype=torch.int64)}
    found = features_of(loaded, loaded.variables.params, {**x, "places": places})
    compare(found, references.told(net, given), x["mask"], 1e-5)
    with pytest.raises(ValueError, match="has 'segments', but this network has no embeddings of segments: leave"):
        features_of(loaded, loaded.variables.params, {**x, "segments": x["ids"]})


# Parameters of the published models, as their repositories count them; one that has an lm_head with it.
@pytest.mark.parametrize(
    ("kind", "name", "total"),
    [
        ("llama", "SmolLM2-135M", 134_515_008),
        ("llama", "SmolLM2-360M", 361_821_120),
        ("llama", "SmolLM2-1.7B", 1_711_376_384),
        ("llama", "TinyLlama-1.1B", 1_100_048_384),
        ("llama", "Llama-3.2-1B", 1_235_814_400),
        ("llama", "Llama-3.2-3B", 3_212_749_824),
        ("llama", "Llama-3.1-8B", 8_030_261_248),
        ("mistral", "Mistral-7B-v0.3", 7_248_023_552),
        ("qwen2", "Qwen2.5-0.5B", 494_032_768),
        ("qwen2", "Qwen2.5-1.5B", 1_543_714_304),
        ("qwen2", "Qwen2.5-7B", 7_615_616_512),
        ("qwen3", "Qwen3-0.6B", 596_049_920),
        ("qwen3", "Qwen3-1.7B", 1_720_574_976),
        ("qwen3", "Qwen3-4B", 4_022_468_096),
        ("qwen3", "Qwen3-8B", 8_190_735_360),
    ],
)
def test_sizes_are_the_published_ones(key, kind, name, total):
    family = FAMILIES[kind]
    config = family.complete(family.named(name, {}) or {})
    config = config.replace(with_lm_head=not config.tie_word_embeddings)
    made = jax.eval_shape(family.backbone(config).init, key, family.example(config))
    assert sum(a.size for a in jax.tree.leaves(made.params)) == total


def test_logits_that_nobody_reads_cost_nothing(key):
    """Floating-point operations of the program, by XLA's own count."""
    x = {"ids": np.ones((2, 8), np.int32), "mask": np.ones((2, 8), bool)}
    size = backbones.Size(8, 1, 2, 8)

    def cost(logits, name):
        parts = backbones.LlamaParts(logits=logits)
        net = backbones.llama(size, vocabulary=5000, parts=parts)
        shapes = jax.eval_shape(net.init, key, x)
        run = jax.jit(lambda v: net.apply(v, x, train=False)[0][name])
        return run.lower(shapes).compile().cost_analysis()["flops"]

    without = cost(None, "pooled")
    for logits in ("lm_head", "words"):
        assert cost(logits, "pooled") == without
        assert cost(logits, "logits") > without + 2 * 16 * 8 * 5000 * 0.9


def test_a_token_sees_none_after_it(key):
    net = backbones.llama(backbones.Size(8, 2, 2, 12), vocabulary=20)
    x = {"ids": np.arange(12, dtype=np.int32).reshape(2, 6), "mask": np.ones((2, 6), bool)}
    v, run = net.init(key, x), jax.jit(lambda v, x: net.apply(v, x, train=False)[0]["last"])
    later = {**x, "ids": np.where(np.arange(6)[None] < 4, x["ids"], 19).astype(np.int32)}
    before, after = (np.asarray(run(v, given)) for given in (x, later))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_attention_dropout_acts_in_training(key):
    x = {"ids": np.ones((2, 6), np.int32), "mask": np.ones((2, 6), bool)}
    x["ids"] = np.arange(12, dtype=np.int32).reshape(2, 6)
    size = backbones.Size(8, 2, 2, 12)
    still, net = (backbones.llama(size, vocabulary=20, attention_dropout=rate) for rate in (0.0, 0.5))
    v = net.init(key, x)
    calm, dropped, evaluated = (
        np.asarray(model.apply(v, x, train=train, key=key)[0]["last"])
        for model, train in ((still, True), (net, True), (net, False))
    )
    np.testing.assert_array_equal(evaluated, calm)
    assert not np.array_equal(dropped, calm)


def test_computes_in_the_dtype_of_its_parameters(key):
    x = {"ids": np.ones((1, 3), np.int32), "mask": np.ones((1, 3), bool)}
    net = backbones.llama(backbones.Size(8, 2, 2, 12), parts=backbones.LlamaParts(groups=1, head_norm=True))
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), jax.eval_shape(net.init, key, x))
    found = jax.eval_shape(lambda v: net.apply(v, x, train=False)[0], half)
    assert {a.dtype.name for a in found.values()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": backbones.Size(8, 1, 4, 8), "parts": backbones.LlamaParts(groups=3)}, "heads=4 of.*groups=3"),
        ({"size": backbones.Size(10, 1, 4, 8)}, "width=10.*heads=4"),
        ({"size": backbones.Size(12, 1, 4, 8)}, "width 3 cannot be rotated, which takes an even width"),
        ({"size": backbones.Size(8, 1, 4, 8), "vocabulary": 0}, "vocabulary=0: must be an integer of at least 1"),
        ({"size": backbones.Size(8, 1, 4, 8), "attention_dropout": 1.0}, "attention_dropout=1.0"),
    ],
)
def test_bad_measures_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        backbones.llama(rotary=Rotary(), **options)
