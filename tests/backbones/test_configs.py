"""A config may say anything: what is no network raises a ValueError that names the entry, and quickly."""

import copy
import json
import random
from dataclasses import fields

import jax
import jax.numpy as jnp
import pytest

from jtl.backbones.family import HEADLESS
from jtl.backbones.registry import FAMILIES
from jtl.model import Variables
from jtl.preprocess import audio_spec, image
from jtl.pretrained.recognise import recognise

CONFIGS = (
    {"model_type": "resnet", "depths": [1, 2], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"},
    {
        "model_type": "resnet_variant",
        "depths": [1, 2],
        "groups": 2,
        "width_per_group": 32,
        "stem_width": 4,
        "squeeze": True,
    },
    {
        "model_type": "vit",
        "hidden_size": 24,
        "num_attention_heads": 4,
        "image_size": 12,
        "patch_size": 4,
        "id2label": {},
    },
    {"model_type": "dinov2", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28},
    {"model_type": "dinov2_with_registers", "hidden_size": 12, "num_attention_heads": 3, "num_register_tokens": 2},
    {
        "model_type": "deit",
        "hidden_size": 12,
        "num_attention_heads": 3,
        "architectures": ["DeiTForImageClassification"],
    },
    {"model_type": "deit3", "hidden_size": 12, "num_attention_heads": 3, "layerscale_value": 1e-6},
    {"model_type": "timm_clip", "hidden_size": 12, "num_attention_heads": 3, "hidden_act": "quick_gelu"},
    {"model_type": "timm_siglip", "hidden_size": 12, "num_attention_heads": 3, "pool": "mean", "hidden_act": "gelu"},
    {"model_type": "mobilenet_v2", "depth_multiplier": 0.5, "depth_coefficient": 1.2, "tf_padding": True},
    {"model_type": "cifar_resnet", "depth": 20},
    {"model_type": "convnext", "depths": [1, 2], "hidden_sizes": [4, 8], "patch_size": 2, "layer_scale_init_value": 1},
    {"model_type": "swin", "embed_dim": 6, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3, "mlp_ratio": 2},
    {"model_type": "inception_v3", "depth_multiplier": 0.25, "num_channels": 3, "transform_input": False},
    {"model_type": "vgg", "depths": [1, 1], "hidden_sizes": [4, 8], "intermediate_size": 8, "batch_norm": True},
    {"model_type": "alexnet", "hidden_sizes": [4, 4, 4, 4, 4], "intermediate_size": 8, "dropout": 0.5},
    {"model_type": "densenet", "growth_rate": 4, "depths": [1, 2], "embedding_size": 4, "bottleneck_ratio": 2},
    {"model_type": "mobilenet_v3", "size": "small", "depth_multiplier": 0.5, "scaling": "timm"},
    {"model_type": "efficientnet", "width_coefficient": 0.5, "hidden_dim": 640, "depthwise_padding": [1]},
    {"model_type": "efficientnet_v2", "stem_channels": 8, "hidden_dim": 16, "padding": "same", "batch_norm_eps": 1e-3},
    {"model_type": "bert", "hidden_size": 12, "num_attention_heads": 3, "hidden_act": "relu", "vocab_size": 40},
    {"model_type": "roberta", "hidden_size": 12, "num_attention_heads": 3, "pad_token_id": 1, "layer_norm_eps": 1e-5},
    {"model_type": "distilbert", "dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 8, "dropout": 0.2},
    {"model_type": "wav2vec2", "conv_dim": [4, 6], "conv_kernel": [5, 3], "conv_stride": [3, 2], "hidden_size": 48},
    {"model_type": "hubert", "hidden_size": 32, "num_attention_heads": 4, "feat_extract_norm": "layer"},
    {"model_type": "whisper", "d_model": 12, "encoder_attention_heads": 3, "max_source_positions": 9, "dropout": 0.0},
    {"model_type": "gpt2", "n_embd": 12, "n_head": 3, "n_layer": 2, "n_inner": 8, "n_positions": 16},
    {
        "model_type": "llama",
        "hidden_size": 12,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    {
        "model_type": "mistral",
        "hidden_size": 12,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "sliding_window": None,
    },
    {"model_type": "qwen2", "hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 20},
    {
        "model_type": "qwen3",
        "hidden_size": 12,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "beta_fast": 8},
    },
    {"model_type": "recurrent", "cell": "gru", "embedding_size": 5, "hidden_size": 4, "bidirectional": True},
    {
        "model_type": "clip",
        "projection_dim": 6,
        "vision_config": {"hidden_size": 12, "num_attention_heads": 3, "image_size": 8, "patch_size": 4},
        "text_config": {"hidden_size": 12, "num_attention_heads": 2, "eos_token_id": 2, "hidden_act": "gelu"},
        "text_config_dict": {"num_hidden_layers": 2, "max_position_embeddings": 5, "vocab_size": 20},
    },
    {
        "model_type": "siglip",
        "vision_config": {"hidden_size": 12, "num_attention_heads": 3, "image_size": 8, "patch_size": 4},
        "text_config": {"hidden_size": 12, "num_attention_heads": 2, "projection_size": 12, "vocab_size": 20},
    },
    {
        "model_cfg": {
            "embed_dim": 6,
            "vision_cfg": {"image_size": 8, "layers": 2, "width": 12, "head_width": 4, "patch_size": 4},
            "text_cfg": {"context_length": 5, "vocab_size": 20, "width": 12, "heads": 2, "layers": 2, "mlp_ratio": 2},
            "quick_gelu": True,
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    },
    {"model_type": "clip_vision_model", "hidden_size": 12, "num_attention_heads": 3, "image_size": 8, "patch_size": 4},
    {"model_type": "clip_text_model", "hidden_size": 12, "num_attention_heads": 3, "eos_token_id": 9},
    {"model_type": "siglip_vision_model", "hidden_size": 12, "num_attention_heads": 3, "vision_use_head": True},
    {"model_type": "siglip_text_model", "hidden_size": 12, "num_attention_heads": 3, "projection_size": 6},
    {"architecture": "resnet18", "model_args": {"layers": [1, 1], "in_chans": 3}},
    {"architecture": "vit_tiny_patch4_12", "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 2}},
    {
        "architecture": "resnet18",
        "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.9, "mean": [0.5] * 3, "interpolation": "bicubic"},
    },
)
SOUNDS = (
    {"sampling_rate": 16000, "do_normalize": True, "feature_size": 1, "return_attention_mask": False},
    {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "chunk_length": 30, "feature_size": 80, "dither": 0.0},
)
IMAGES = (
    {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
    {"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0.9, "image_mean": [0.5] * 3},
)
JUNK = (None, True, "x" * 300, "", -1, 0, 10**30, 1.5, float("nan"), float("inf"), [], [[]], {}, {"a": 1}, [None], 3)


def changed(config, draw):
    """One entry, at any depth, is junk or gone."""
    config = copy.deepcopy(config)
    node = config
    while True:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], (dict, list)) and node[key] and draw.random() < 0.6:
            node = node[key]
            continue
        if draw.random() < 0.2:
            del node[key]
        else:
            node[key] = draw.choice(JUNK)
        return config


def network(config):
    family, config, *_ = recognise(None, config)
    config = family.complete(config, "")
    family.backbone(config)
    family.tables(config)
    return [leaf.shape for leaf in jax.tree.leaves(family.example(config))]


KINDS = ((CONFIGS, network), (IMAGES, image.from_transformers), (SOUNDS, audio_spec.from_transformers))


@pytest.mark.parametrize("seed", range(8))
def test_junk_raises_a_value_error(seed):
    draw, refused, longest = random.Random(seed), 0, 0
    for _ in range(100):
        configs, read = draw.choices(KINDS, (0.6, 0.25, 0.15))[0]
        wrong = changed(draw.choice(configs), draw)
        try:
            read(wrong)
        except ValueError as error:
            refused += 1
            longest = max(longest, len(str(error)))
    # An unknown name is answered with all that are known.
    assert longest < 600 + sum(len(family.names) for family in FAMILIES.values())
    assert refused > 30


@pytest.mark.parametrize("config", CONFIGS)
def test_the_configs_themselves_are_read(config):
    assert all(shape[0] == 1 for shape in network(config))


@pytest.mark.parametrize("naming", ["", "transformers", "timm", HEADLESS])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_is_read_again_from_what_it_gives(config, naming):
    family, entries, *_ = recognise(None, config)
    made = family.complete(entries, naming)
    assert family.complete(json.loads(json.dumps(made.to_dict()))) == made


JTLS = {
    "add_pooling_layer",
    "conv_mlp",
    "depth_coefficient",
    "norm_first",
    "with_lm_head",
    "with_projector",
    "use_mask_token",
    # Of wav2vec 2.0 and HuBERT, of which transformers has each in one only; and of its fourth version.
    "add_adapter",
    "conv_pos_batch_norm",
    "feat_proj_layer_norm",
    "position_embedding_type",
    "rope_theta",
    # Which transformers reads although no class of its configs has it.
    "is_causal",
}


OWN = {"resnet_variant", "deit3", "timm_clip", "timm_siglip", "mobilenet_v3", "efficientnet_v2", "inception_v3", "vgg"}
OWN |= {"alexnet", "densenet", "cifar_resnet", "recurrent"}
"""The families that transformers does not have."""


# By its defaults a Mistral has a window, and is not read.
@pytest.mark.parametrize("kind", sorted(FAMILIES.keys() - OWN - {"mistral"}))
def test_defaults_are_those_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(kind).to_dict()
    if kind == "gpt2":  # which has no token for padding; texts are padded with the one that ends them
        theirs["pad_token_id"] = theirs["eos_token_id"]
    ours = {k: v for k, v in FAMILIES[kind].complete({}, "transformers").to_dict().items() if not isinstance(v, dict)}
    assert ours.keys() - theirs.keys() <= JTLS
    assert {name: theirs[name] for name in ours if name in theirs} == {k: v for k, v in ours.items() if k in theirs}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_field_has_the_default_of_its_class(kind):
    """Of two bases with a common one, dataclasses take the fields of the first, those it only inherits too."""
    config = FAMILIES[kind].config
    for one in fields(config):
        if one.name != "extra" and hasattr(config, one.name):
            assert one.default == getattr(config, one.name)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("swin", {"num_attention_heads": [1, 2, 4, 8]}),
        ("distilbert", {"hidden_size": 12, "num_attention_heads": 6, "num_hidden_layers": 1}),
        ("gpt2", {"hidden_size": 12, "num_attention_heads": 6, "num_hidden_layers": 1, "max_position_embeddings": 9}),
        ("whisper", {"hidden_size": 12, "num_attention_heads": 6, "num_hidden_layers": 1}),
    ],
)
def test_transformers_common_words_are_the_familys_own(kind, words):
    """No shape tells the number of heads: by a word that is not known it would be the usual one."""
    transformers = pytest.importorskip("transformers")
    theirs, family = transformers.AutoConfig.for_model(kind, **words), FAMILIES[kind]
    ours = {theirs.attribute_map[word]: value for word, value in words.items()}
    assert all(getattr(theirs, word) == value for word, value in ours.items())
    found = family.complete({"model_type": kind, **words}, "transformers")
    assert found == family.complete({"model_type": kind, **ours}, "transformers")
    assert family.complete({"model_type": kind, **words, **ours}, "transformers") == found
    own = theirs.attribute_map["num_attention_heads"]
    with pytest.raises(ValueError, match=rf"{own}=.* and num_attention_heads=.* are the same measure of a {kind}"):
        family.complete({"model_type": kind, **words, own: 3}, "transformers")


@pytest.mark.parametrize(
    ("kind", "word"), [("efficientnet", "dropout_rate"), ("mobilenet_v2", "classifier_dropout_prob")]
)
def test_a_classifier_drops_as_many_features_as_the_config_says(kind, word):
    """In training a sum of 4000 ones is `Σ m / (1 - p)`, m = 1 with probability 1 - p; it is 4000 else."""
    sums = []
    for said, train in (({word: 0.75}, True), ({word: 0.75}, False), ({}, True)):
        family, config, *_ = recognise(None, {"model_type": kind, **said})
        head = family.head(family.complete(config, "transformers"), 1)
        params = {"out": {"kernel": jnp.ones((4000, 1)), "bias": jnp.zeros(1)}}
        z, _ = head.apply(Variables(params, {}), jnp.ones((1, 4000)), train=train, key=jax.random.key(0))
        sums.append(float(z[0, 0]))
    assert sums[0] % 4 == 0
    assert 0 < abs(sums[0] - 4000) < 600
    assert sums[1:] == [4000, 4000]


def test_a_dropout_that_is_none_is_refused():
    for kind, word in (("efficientnet", "dropout_rate"), ("mobilenet_v2", "classifier_dropout_prob")):
        with pytest.raises(ValueError, match=f"{word}=1.0: give a number from 0 to 0.99"):
            network({"model_type": kind, word: 1.0})
