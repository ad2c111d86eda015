"""wav2vec2 and HuBERT against transformers' on randomised weights and padded sounds."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import close, follow, same_bits, same_gradients, same_outputs, tree_of
from running import forward
from safetensors.numpy import load_file, save_file

from jtl.params import flatten
from jtl.preprocess.audio_spec import Waves
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights.formats.errors import WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from speech_references import hf_speech, to_torch, waves
from torch_vits import gradients

CASES = [(kind, size) for kind in ("wav2vec2", "hubert") for size in ("base", "large")]
SAMPLES = {"base": 300, "large": 241}


def references(net, kind, x):
    """Logits and features of transformers."""
    given = to_torch(x)
    base = getattr(net, kind)
    out = base(**given, output_hidden_states=True)
    last = out.last_hidden_state
    found = {f"stage{i}": h for i, h in enumerate(out.hidden_states[1:], 1)} | {"last": last}
    found["conv"] = base.feature_extractor(given["input_values"]).transpose(1, 2)
    found["frames"] = net._get_feature_vector_attention_mask(last.shape[1], given["attention_mask"])
    heard = found["frames"][:, :, None]
    found["pooled"] = (net.projector(last) * heard).sum(1) / heard.sum(1)
    return net(**given).logits, found


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_is_transformers_network(kind, size, tmp_path):
    """Features and logits to 1e-5 in float32, evaluating; to 1e-10 in float64, training, with gradients to 1e-9."""
    net = hf_speech(kind, size)
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), waves(SAMPLES[size])
    assert loaded.naming == "transformers"
    if kind == "wav2vec2":  # the other's computation is the same
        run = forward(loaded.network, train=False)
        features, logits, _ = jax.jit(lambda v, x: run(v, x, None))(loaded.variables, x)
        same_outputs(features, logits, *references(net, kind, x), 1e-5)
    x = waves(SAMPLES[size], np.float64)
    with jax.enable_x64(True):
        exact = load(tmp_path, dtype=jnp.float64)

        def loss(params, x):
            train = forward(exact.network, train=True)
            features, logits, _ = train(exact.variables._replace(params=params), x, None)
            return jnp.sin(logits).sum(), (features, logits)

        grads, (features, logits) = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params, x)
    theirs, wanted = references(net.double().train(), kind, x)
    same_outputs(features, logits, theirs, wanted, 1e-10)
    theirs.sin().sum().backward()
    gradients(net, tmp_path / "gradients")
    same_gradients(grads, tmp_path / "gradients")


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_hidden_spans_are_transformers(kind, tmp_path, monkeypatch):
    """Training, where both draw the same frames and channels: logits and gradients, the vector's among them."""
    spans = {"mask_time_prob": 0.3, "mask_time_length": 2, "mask_feature_prob": 0.2, "mask_feature_length": 3}
    net = hf_speech(kind, "base", apply_spec_augment=True, **spans).double().train()
    net.save_pretrained(tmp_path)
    asked = []

    def drawn(shape):
        return np.random.default_rng(shape[1]).random(shape) < 0.4

    def ours(key, spans, lengths, steps):
        asked.append(tuple(spans))
        return jnp.asarray(drawn((len(lengths), steps)))

    monkeypatch.setattr(import_module("jtl.backbones.wav2vec2.network"), "span_mask", ours)
    theirs = import_module(f"transformers.models.{kind}.modeling_{kind}")
    monkeypatch.setattr(theirs, "_compute_mask_indices", lambda shape, **numbers: drawn(shape))
    x = waves(300, np.float64)
    with jax.enable_x64(True):
        loaded = load(tmp_path, dtype=jnp.float64)

        def loss(params, x, key):
            train = forward(loaded.network, train=True)
            logits = train(loaded.variables._replace(params=params), x, key)[1]
            return jnp.sin(logits).sum(), logits

        grads, logits = jax.jit(jax.grad(loss, has_aux=True))(loaded.variables.params, x, jax.random.key(0))
    assert asked == [(0.3, 2, 2), (0.2, 3, 0)]
    wanted = net(**to_torch(x)).logits
    close(logits, wanted.detach(), 1e-10, "logits")
    wanted.sin().sum().backward()
    gradients(net, tmp_path / "gradients")
    assert np.abs(grads["backbone"]["masked"]).max() > 0
    same_gradients(grads, tmp_path / "gradients")


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_is_written_as_it_was_read(kind, size, tmp_path):
    net = hf_speech(kind, size)
    net.save_pretrained(tmp_path / "in")
    extractor = transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=8000, do_normalize=False, return_attention_mask=True
    )
    extractor.save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    save(tmp_path / "out", loaded)
    same_bits(*(load_file(tmp_path / f / "model.safetensors") for f in ("out", "in")))
    theirs, account = transformers.AutoModelForAudioClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    given = to_torch(waves(SAMPLES[size]))
    with torch.no_grad():
        torch.testing.assert_close(theirs(**given).logits, net(**given).logits, rtol=0, atol=0)
    again = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert again.to_dict() == extractor.to_dict()
    assert loaded.preprocessing == load(tmp_path / "out").preprocessing == Waves(8000, False, True)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_a_file_without_a_head_embeds(kind, tmp_path):
    """And is written as it was read; a sound without a mask is all sound."""
    net = hf_speech(kind, "base", "Model")
    net.save_pretrained(tmp_path / "in")
    loaded, x = load(tmp_path / "in"), waves(300)["wave"]
    assert loaded.naming == "transformers, headless"
    run = forward(loaded.network, train=False)
    ours = jax.jit(lambda v, x: run(v, {"wave": x}, None)[1])(loaded.variables, x)
    with torch.no_grad():
        close(ours, net(torch.tensor(x)).last_hidden_state.mean(1), 1e-5, "pooled")
    save(tmp_path / "out", loaded)
    same_bits(*(load_file(tmp_path / f / "model.safetensors") for f in ("out", "in")))
    _, account = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(account.values()), account


def test_a_classifier_of_frames_gives_its_encoder(tmp_path):
    """Its classifier is not led to by a projection; that of speakers is, which can be left with all that follows."""
    hf_speech("wav2vec2", "base", "ForAudioFrameClassification").save_pretrained(tmp_path / "frames")
    with pytest.raises(WeightNameError, match="2 tensors of the file have no parameter") as caught:
        load(tmp_path / "frames")
    frames = load(tmp_path / "frames", **follow(str(caught.value)))
    hf_speech("wav2vec2", "base", "ForXVector").save_pretrained(tmp_path / "speakers")
    with pytest.raises(WeightNameError, match="x-vectors of speakers are not read, only the encoder") as caught:
        load(tmp_path / "speakers")
    speakers = load(tmp_path / "speakers", **follow(str(caught.value)))
    hf_speech("wav2vec2", "base", "Model").save_pretrained(tmp_path / "bare")
    bare = load(tmp_path / "bare")
    assert frames.naming == speakers.naming == bare.naming
    assert jax.tree.structure(frames.variables) == jax.tree.structure(speakers.variables)
    assert jax.tree.structure(frames.variables) == jax.tree.structure(bare.variables)


def test_a_pretrained_model_becomes_a_classifier(tmp_path):
    """What is missing or left over is only so by request, and transformers loads what comes out."""
    hf_speech("wav2vec2", "base", "ForPreTraining", codevector_dim=8, proj_codevector_dim=8).save_pretrained(
        tmp_path / "in"
    )
    with pytest.raises(WeightNameError, match="have no parameter"):
        load(tmp_path / "in")
    unused = (r"quantizer\..*", r"project_(hid|q)\..*")
    with pytest.raises(WeightNameError, match=r"backbone/projection/kernel"):
        load(tmp_path / "in", unused=unused, classes=2, reinit=("head/.*",))
    loaded = load(tmp_path / "in", unused=unused, classes=2, reinit=("head/.*", "backbone/projection/.*"))
    save(tmp_path / "out", loaded)
    _, account = transformers.AutoModelForAudioClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account


def test_the_older_spelling_and_no_masked_vector(tmp_path):
    """torch's first weight norm; and a vector of masked frames for a network that masks none, which is left."""
    hf_speech("hubert", "base", mask_time_prob=0.0).save_pretrained(tmp_path)
    before, held = load(tmp_path), load_file(tmp_path / "model.safetensors")
    names = {f"parametrizations.weight.original{i}": f"weight_{letter}" for i, letter in enumerate("gv")}
    place = "hubert.encoder.pos_conv_embed.conv."
    for new, old in names.items():
        spellings = {place + new, place + old}
        (found,) = spellings & set(held)
        (other,) = spellings - {found}
        held[other] = held.pop(found)
    save_file({**held, "hubert.masked_spec_embed": np.ones(12, np.float32)}, tmp_path / "model.safetensors")
    after = load(tmp_path)
    assert after.report.unused == ["hubert.masked_spec_embed"]
    same_bits(flatten(tree_of(after)), flatten(tree_of(before)))
