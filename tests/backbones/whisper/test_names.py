"""Whisper's encoder against transformers' on randomised weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import close, same_bits, same_gradients, same_outputs
from running import forward
from safetensors.numpy import load_file

from jtl.backbones.whisper.network import sinusoids
from jtl.params import flatten
from jtl.preprocess import audio
from jtl.preprocess.audio_spec import LogMel
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights.formats.errors import WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from speech_references import hf_whisper

SIZES = {
    "even": {},
    "odd": {"d_model": 10, "encoder_attention_heads": 5, "encoder_layers": 1, "num_mel_bins": 9, "encoder_ffn_dim": 17}
    | {"max_source_positions": 7, "num_labels": 5, "decoder_attention_heads": 5},
}


def pictures(config, dtype=np.float32):
    shape = (2, 2 * config.max_source_positions, config.num_mel_bins)
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def references(net, x):
    """Logits and features of transformers, which has frames last."""
    given, encoder = torch.tensor(x).transpose(1, 2), net.encoder
    out = encoder(given, output_hidden_states=True)
    found = {"last": out.last_hidden_state, "pooled": net.projector(out.last_hidden_state).mean(1)}
    gelu = torch.nn.functional.gelu
    conv = found["conv"] = gelu(encoder.conv2(gelu(encoder.conv1(given)))).transpose(1, 2)
    x = conv + encoder.embed_positions.weight
    for i, layer in enumerate(encoder.layers, 1):
        x = found[f"stage{i}"] = layer(x, None)
    return net(given).logits, found


@pytest.mark.parametrize("size", SIZES)
def test_is_transformers_network(size, tmp_path):
    """Features and logits to 1e-5 in float32, evaluating; to 1e-10 in float64, training, with gradients to 1e-9."""
    net = hf_whisper(**SIZES[size])
    net.save_pretrained(tmp_path)
    loaded, x = load(tmp_path), pictures(net.config)
    assert loaded.naming == "transformers"
    run = forward(loaded.network, train=False)
    features, logits, _ = jax.jit(lambda v, x: run(v, x, None))(loaded.variables, x)
    same_outputs(features, logits, *references(net, x), 1e-5)
    x = pictures(net.config, np.float64)
    with jax.enable_x64(True):
        exact = load(tmp_path, dtype=jnp.float64)

        def loss(params, x):
            train = forward(exact.network, train=True)
            features, logits, stats = train(exact.variables._replace(params=params), x, None)
            return jnp.sin(logits).sum(), (features, logits, stats)

        grads, (features, logits, stats) = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params, x)
    same_bits(flatten(stats), flatten(exact.variables.stats))
    theirs, wanted = references(net.double().train(), x)
    same_outputs(features, logits, theirs, wanted, 1e-10)
    theirs.sin().sum().backward()
    assert net.encoder.embed_positions.weight.grad is None
    for parameter in net.parameters():
        parameter.data = parameter.data if parameter.grad is None else parameter.grad
    net.save_pretrained(tmp_path / "gradients")
    same_gradients(grads, tmp_path / "gradients")


@pytest.mark.parametrize("size", SIZES)
def test_is_written_as_it_was_read(size, tmp_path):
    net = hf_whisper(**SIZES[size])
    net.save_pretrained(tmp_path / "in")
    extractor = transformers.WhisperFeatureExtractor(feature_size=9, chunk_length=2)
    extractor.save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    save(tmp_path / "out", loaded)
    same_bits(*(load_file(tmp_path / f / "model.safetensors") for f in ("out", "in")))
    theirs, account = transformers.AutoModelForAudioClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    given = torch.tensor(pictures(net.config)).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(theirs(given).logits, net(given).logits, rtol=0, atol=0)
    again = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(again.mel_filters, extractor.mel_filters)
    assert again.nb_max_frames == extractor.nb_max_frames
    assert loaded.preprocessing == load(tmp_path / "out").preprocessing == LogMel(mels=9, seconds=2)
    heard = audio.inputs(loaded.preprocessing, [np.ones(100, np.float32)])
    assert heard.shape == (1, again.nb_max_frames, 9)


@pytest.mark.parametrize("made", ["Model", "ForConditionalGeneration"])
def test_the_encoder_of_a_whole_whisper(made, tmp_path):
    """The decoder is left and told so; a head is new by request, and transformers loads what comes out."""
    net = hf_whisper(made)
    net.save_pretrained(tmp_path / "in")
    loaded, x = load(tmp_path / "in"), pictures(net.config)
    assert loaded.naming == "transformers, headless"
    assert any("decoder" in name for name in loaded.report.unused)
    assert not any("encoder." in name for name in loaded.report.unused)
    run = forward(loaded.network, train=False)
    ours = jax.jit(lambda v, x: run(v, x, None)[1])(loaded.variables, x)
    with torch.no_grad():
        last = net.get_encoder()(torch.tensor(x).transpose(1, 2)).last_hidden_state
    close(ours, last.mean(1), 1e-5, "pooled")
    save(tmp_path / "own", loaded, format="jtl")
    same_bits(flatten(load(tmp_path / "own").variables.params), flatten(loaded.variables.params))
    with pytest.raises(WeightNameError, match=r"backbone/projection/kernel"):
        load(tmp_path / "in", classes=2, reinit=("head/.*",))
    save(tmp_path / "out", load(tmp_path / "in", classes=2, reinit=("head/.*", "backbone/projection/.*")))
    _, account = transformers.AutoModelForAudioClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account


def test_sinusoids_are_those_of_a_fresh_whisper():
    """To float32's rounding of angles, which are up to 1500."""
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    np.testing.assert_allclose(sinusoids(1500, 12), theirs(1500, 12), rtol=0, atol=2e-4)
    np.testing.assert_allclose(sinusoids(8, 12), theirs(8, 12), rtol=0, atol=1e-6)
