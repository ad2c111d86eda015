"""Networks of sounds by laws and published sizes; transformers' are compared in tests/backbones."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones
from jtl._tracing.eval_shape import shapes
from jtl.backbones import Convolution, Size, Spans
from jtl.backbones.registry import FAMILIES
from jtl.backbones.wav2vec2.network import CONVOLUTIONS
from jtl.nn.audio_frontend import conv1d, mask_of_frames, samples_of_frame
from jtl.reads import reads

SMALL = (Convolution(4, 5, 3), Convolution(6, 3, 2))


def small(**options):
    size = options.pop("size", Size(8, 1, 2, 12))
    return backbones.wav2vec2(size, **{"convolutions": SMALL, "positions": 4, "groups": 2, **options})


def test_padding_behind_a_mask_changes_nothing(key):
    """Where each frame is normalised by itself; nearly so in bf16, of 8 bits."""
    model = small(norm="layer", pre_norm=True, bias=True, projection=3)
    short = jax.random.normal(key, (2, 60))
    mask = jnp.broadcast_to(jnp.arange(83) < 60, (2, 83))
    alone, padded = {"wave": short}, {"wave": jnp.pad(short, ((0, 0), (0, 23)), constant_values=9.0), "mask": mask}
    variables = jax.jit(model.init)(key, padded)
    run = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])
    one, two = run(variables, alone), run(variables, padded)
    np.testing.assert_allclose(one["pooled"], two["pooled"], rtol=1e-5, atol=1e-6)
    frames = one["last"].shape[1]
    np.testing.assert_allclose(one["last"], two["last"][:, :frames], rtol=1e-5, atol=1e-5)
    assert two["last"].shape[1] > frames
    for name in ("conv", "stage1", "last"):
        np.testing.assert_allclose(reads(name)(one, alone), reads(name)(two, padded), rtol=1e-5, atol=1e-5)
    half = run(jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables), padded)
    assert half["pooled"].dtype == jnp.bfloat16
    np.testing.assert_allclose(half["pooled"].astype(jnp.float32), two["pooled"], atol=0.05)


def test_training_skips_blocks_and_hides_frames_as_often_as_asked(key):
    """A skipped block gives what it was given, to the bit; evaluation skips and hides nothing."""
    quiet = {"dropout": 0.0, "mlp_dropout": 0.0, "attention_dropout": 0.0}
    options = {"masked": True, "norm": "layer", "pre_norm": True, "bias": True, "size": Size(8, 3, 2, 12), **quiet}
    plain, x = small(**options), {"wave": jax.random.normal(key, (4, 83))}
    skipping = small(**options, layer_drop=0.3)
    hiding = small(**options, hidden_frames=Spans(0.0, 4, 1), hidden_channels=Spans(0.0, 2, 1))
    variables = jax.jit(plain.init)(key, x)

    def run(model, train):
        calls = jax.vmap(lambda key: model.apply(variables, x, train=train, key=key)[0])
        return jax.jit(calls)(jax.random.split(key, 400))

    skipped, whole = run(skipping, True), run(plain, True)
    drops = np.array(
        [jnp.all(skipped[f"stage{i}"] == skipped[f"stage{i - 1}"], (1, 2, 3)) for i in (2, 3)]
    )  # of the first block the input is no feature
    assert abs(drops.mean() - 0.3) < 5 * (0.3 * 0.7 / drops.size) ** 0.5
    kept = np.isclose(skipped["last"], whole["last"], rtol=1e-5, atol=1e-5).all((1, 2, 3))
    assert not (kept & drops.any(0)).any()
    assert abs(kept.mean() - 0.7**3) < 5 * (0.343 * 0.657 / 400) ** 0.5
    assert not jnp.all(run(hiding, True)["stage1"] == whole["stage1"], (2, 3)).any()
    for model in (skipping, hiding):
        jax.tree.map(np.testing.assert_array_equal, run(model, False), run(plain, False))


def test_whisper_skips_blocks_as_often_as_its_config_says(key):
    """As transformers' encoder, which draws once a block; evaluation skips nothing."""
    measures = {"d_model": 4, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 4}
    measures |= {"model_type": "whisper", "num_mel_bins": 3, "max_source_positions": 2}
    whisper = FAMILIES["whisper"]
    plain, skipping = (
        whisper.backbone(whisper.complete({**measures, **more}, "transformers"))
        for more in ({}, {"encoder_layerdrop": 0.3})
    )
    x = jax.random.normal(key, (2, 4, 3))
    variables = jax.jit(plain.init)(key, x)

    def run(model, train):
        calls = jax.vmap(lambda key: model.apply(variables, x, train=train, key=key)[0])
        return jax.jit(calls)(jax.random.split(key, 400))

    skipped = run(skipping, True)
    drops = np.array([jnp.all(skipped[f"stage{i}"] == skipped[f"stage{i - 1}"], (1, 2, 3)) for i in (2, 3)])
    assert abs(drops.mean() - 0.3) < 5 * (0.3 * 0.7 / drops.size) ** 0.5
    assert not (drops[0] == drops[1]).all()
    jax.tree.map(np.testing.assert_array_equal, run(skipping, False), run(plain, False))


@pytest.mark.parametrize(("length", "groups", "stride"), [(37, 3, 1), (16, 2, 1), (4, 1, 4)])
def test_convolutions_are_those_of_lax(length, groups, stride, key):
    """Values and gradients, whichever way they are computed."""
    padding = (length // 2, (length - 1) // 2) if stride == 1 else (0, 0)
    keys = jax.random.split(key)
    x = jax.random.normal(keys[0], (2, 50, 6))
    kernel = jax.random.normal(keys[1], (length, 6 // groups, 12)) / length

    def theirs(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), (padding,), dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
        )

    def both(x, kernel):
        found = []
        for run in (theirs, lambda x, kernel: conv1d(x, kernel, stride, padding)):
            y, back = jax.vjp(run, x, kernel)
            found.append((y, *back(jnp.sin(y))))
        return found

    wanted, ours = jax.jit(both)(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, wanted)


def test_frames_by_hand():
    """5 samples in steps of 3, then 3 of those in steps of 2: a frame sees 11, the next begins 6 later."""
    assert samples_of_frame(SMALL) == 11
    assert samples_of_frame(CONVOLUTIONS) == 400
    lengths = np.array([0, 1, 10, 11, 16, 17, 23])
    mask = jnp.asarray(np.arange(23)[None] < lengths[:, None])
    np.testing.assert_array_equal(mask_of_frames(mask, SMALL, 3).sum(1), [1, 1, 1, 1, 1, 2, 3])


@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        ("wav2vec2", "wav2vec2-base", 94_371_712),
        ("hubert", "hubert-base-ls960", 94_371_712),
        # 1500 sinusoids of width 384 are none of ours.
        ("whisper", "whisper-tiny", 8_208_384 - 1500 * 384),
    ],
)
def test_published_sizes(kind, name, parameters):
    """Parameters as PyTorch counts them, without what stands before a classifier."""
    family = FAMILIES[kind]
    config = family.complete({**family.named(name, {}), "with_projector": False}, "")
    made = shapes(family.backbone(config).init, jax.random.key(0), family.example(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(made.params)) == parameters


def test_a_second_is_49_frames_of_wav2vec2():
    model = backbones.wav2vec2(Size(16, 1, 1, 1))
    second = {"wave": jax.ShapeDtypeStruct((2, 16000), jnp.float32)}
    made = jax.eval_shape(model.init, jax.random.key(0), second)
    found = jax.eval_shape(lambda v, x: model.apply(v, x, train=False)[0], made, second)
    assert found["last"].shape == (2, 49, 16)
    assert found["conv"].shape == (2, 49, 512)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((2, 99), np.float32), "give a dict of 'wave'"),
        ({"wave": np.zeros((2, 99), np.float32), "ids": np.zeros((2, 99), bool)}, r"\['ids', 'wave'\]"),
        ({"wave": np.zeros((2, 99), np.int16)}, "int16"),
        ({"wave": np.zeros(99, np.float32)}, r"shape \(99,\)"),
        ({"wave": np.zeros((2, 99), np.float32), "mask": np.ones((2, 99), np.int32)}, "booleans"),
        ({"wave": np.zeros((2, 99), np.float32), "mask": np.ones((2, 98), bool)}, r"mask of shape \(2, 98\)"),
        ({"wave": np.zeros((2, 10), np.float32)}, "10 samples: this network needs at least 11"),
    ],
)
def test_what_is_no_wave_is_refused(x, said, key):
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(small().init, key, x)


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 6, 3), (6, 4)])
def test_whisper_takes_pictures_of_one_shape(shape, key):
    model = backbones.whisper(Size(8, 1, 2, 12), mels=4, positions=3)
    with pytest.raises(ValueError, match="exactly 6 frames and 4 mels"):
        jax.eval_shape(model.init, key, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: unwrap(backbones.wav2vec2)("huge"), "size='huge'"),
        (lambda: small(groups=3), "groups=3"),
        (lambda: unwrap(backbones.wav2vec2)(Size(8, 1, 2, 12), norm="batch"), "norm='batch'"),
        (lambda: small(convolutions=()), "at least one"),
        (lambda: small(convolutions=(Convolution(4, 0, 1),)), "above zero"),
        (lambda: small(positions=0), "positions=0"),
        (lambda: small(projection=0), "projection=0"),
        (lambda: small(dropout=1.0), "dropout=1.0"),
        (lambda: small(layer_drop=1.0), "layer_drop=1.0"),
        (lambda: small(hidden_channels=Spans(2.0)), "hidden_channels=Spans"),
        (lambda: small(hidden_frames=Spans(0.1)), "give masked=True"),
        (lambda: unwrap(backbones.whisper)("huge"), "size='huge'"),
        (lambda: backbones.whisper(Size(9, 1, 3, 4)), "width=9"),
        (lambda: backbones.whisper("tiny", mels=0), "mels=0"),
        (lambda: backbones.whisper("tiny", layer_drop=1.0), "layer_drop=1.0"),
    ],
)
def test_numbers_that_make_no_network_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
