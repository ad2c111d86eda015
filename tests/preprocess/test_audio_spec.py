"""The preprocessing of sounds as files say it, and a network of sounds from its folder to its folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

import jtl
from jtl.backbones.registry import FAMILIES
from jtl.preprocess.audio_spec import LogMel, Waves, from_transformers, to_transformers
from jtl.pretrained.recognise import recognise
from jtl.weights import export

soundfile = pytest.importorskip("soundfile")

CONFIG = {
    "model_type": "wav2vec2",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "conv_dim": [6, 6],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 6,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}


def test_a_folder_is_fine_tuned_to_other_sounds(key, tmp_path):
    """Low and high tones in files, from the files of a network to the files of another."""
    family = FAMILIES["wav2vec2"]
    config = family.complete(CONFIG, "transformers")
    backbone, x, draw = family.backbone(config), {"wave": jnp.zeros((1, 800))}, np.random.default_rng(0)
    made = jax.eval_shape(lambda: jtl.network(backbone=backbone, head=jtl.heads.linear(4)).init(key, x))
    tree = jax.tree.map(lambda a: draw.normal(size=a.shape, scale=0.4).astype(np.float32), made.params)
    (tmp_path / "in").mkdir()
    tensors = export({**tree, "stats": {}}, family.tables(config)["transformers"])
    save_file(tensors, tmp_path / "in/model.safetensors")
    (tmp_path / "in/config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "in/preprocessor_config.json").write_text(json.dumps(to_transformers(Waves(8000, masked=True))))
    files = []
    for i in range(8):
        hertz, seconds = (300, 1500)[i % 2], draw.uniform(0.05, 0.1)
        wave = np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000 + draw.uniform(0, 6))
        files.append(tmp_path / f"{i}.wav")
        soundfile.write(files[-1], 0.3 * wave, 16000)

    loaded = jtl.load(tmp_path / "in", classes=("low", "high"), reinit=("head/.*",))
    x = jtl.preprocess.audio.inputs(loaded.preprocessing, files, seconds=0.1)
    assert x["wave"].shape == (8, 800)
    assert not x["mask"].all()
    batch = {"x": x, "y": np.arange(8) % 2}
    step = jtl.make_step(jtl.finetune(loaded.network), optax.adam(1e-2))
    run, state, told = jax.jit(step), step.init(loaded.variables, key), []
    for _ in range(30):
        state, metrics = run(state, batch)
        told.append(float(metrics["loss"]))
    assert told[-1] < 0.3 * told[0], "tones are told apart"

    jtl.save(tmp_path / "out", loaded, jtl.variables(state))
    again = jtl.load(tmp_path / "out")
    assert again.labels == ("low", "high")
    assert again.preprocessing == Waves(8000, masked=True)
    jax.tree.map(np.testing.assert_array_equal, again.variables.params, state.params)


@pytest.mark.parametrize(
    "preprocessing", [Waves(), Waves(8000, False, True), LogMel(), LogMel(8000, 40, 200, 80, 1), LogMel(mels=128)]
)
def test_it_is_read_as_it_was_written(preprocessing):
    assert from_transformers(to_transformers(preprocessing)) == preprocessing


def test_old_files_say_less():
    assert from_transformers({"sampling_rate": 16000}) == Waves(16000, True, False)
    assert from_transformers({"sampling_rate": 16000, "hop_length": 160}) == LogMel()


@pytest.mark.parametrize(("kind", "wanted"), [("Wav2Vec2", Waves()), ("Whisper", LogMel())])
def test_what_a_file_leaves_out_is_its_extractors(kind, wanted, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": f"{kind}FeatureExtractor"})
    )
    assert recognise(tmp_path, None).preprocessing == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 3},
        {"hop_length": 480, "feature_extractor_type": "ClapFeatureExtractor"},
        {"padding_side": "left"},
        {"padding_value": 1.0},
        {"do_normalize": "yes"},
        {"feature_size": 2},
        {"hop_length": 0},
        {"n_fft": 1.5},
        {"n_fft": 400, "dither": 0.1},
        {"n_fft": 400, "feature_size": 10**9},
        {"n_fft": 400, "chunk_length": -1},
    ],
)
def test_what_is_no_preprocessing_is_named(wrong):
    with pytest.raises(ValueError, match=f"^{list(wrong)[-1]}="):
        from_transformers({"sampling_rate": 16000, **wrong})
