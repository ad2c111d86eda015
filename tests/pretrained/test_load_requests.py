"""What a user may ask of `jtl.load`, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from loading import channels_first, close, follow, images

from jtl.methods.finetune.finetune import predictor
from jtl.networks import part
from jtl.preprocess.image import IMAGENET, Preprocessing
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights import WeightFileError, WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from torch_references import hf_resnet, hf_vit
from torch_vits import hf_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    hf_resnet("basic", width=4, depths=(1, 1)).save_pretrained(folder)
    return folder


def test_a_new_head(folder, key):
    loaded = load(folder, classes=("ants", "bees", "wasps"), reinit=("head/.*",), key=key)
    assert loaded.variables.params["head"]["out"]["kernel"].shape == (8, 3)
    assert loaded.labels == ("ants", "bees", "wasps")
    assert loaded.report.reinit == ["head/out/bias", "head/out/kernel"]
    assert {n for n in loaded.report.unused if "classifier" in n} == {"classifier.1.weight", "classifier.1.bias"}
    old = load(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables.params["backbone"], old.variables.params["backbone"])
    assert load(folder, classes=5).labels == old.labels
    assert load(folder, classes=5, reinit=("head/.*",)).labels is None, "five other classes have not the file's names"
    # The same draw as the network's init makes, so that a run from the same key starts alike.
    fresh = jax.jit(loaded.network.init)(key, jnp.zeros((1, 64, 64, 3)))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables.params["head"], fresh.params["head"])


def test_a_new_head_must_be_asked_for(folder):
    with pytest.raises(WeightNameError, match=r"head/out/bias: the model has shape \(3,\), the file gives \(5,\)"):
        load(folder, classes=3)


def test_labels_come_from_the_config(folder):
    assert load(folder).labels == tuple(f"LABEL_{i}" for i in range(5))


@pytest.mark.parametrize("first", [0, 1])
def test_labels_are_those_of_classes_from_0(folder, first):
    """Names from 1 on are of a shifted classifier, of which transformers has no name for its class 0."""
    config = json.loads((folder / "config.json").read_text())
    names = {str(i + first): f"name {i}" for i in reversed(range(5))}
    loaded = load(folder, arch={**config, "id2label": names})
    assert loaded.labels == (None if first else tuple(f"name {i}" for i in range(5)))


def test_a_body_without_a_head(tmp_path):
    net = hf_vit()
    net.vit.save_pretrained(tmp_path)
    bare = load(tmp_path)
    assert bare.variables.params["head"] == {}
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    pooled = bare.backbone.apply(part(bare.variables, "backbone"), x, train=False)[0]["pooled"]
    np.testing.assert_array_equal(predictor(bare.network)(bare.variables, x), pooled)
    with pytest.raises(WeightNameError, match=r"head/out/bias"):
        load(tmp_path, classes=2)
    loaded = load(tmp_path, classes=2, reinit=("head/.*",))
    assert len(loaded.report.reinit) == 2
    jax.tree.map(np.testing.assert_array_equal, bare.variables.params["backbone"], loaded.variables.params["backbone"])
    np.testing.assert_array_equal(
        loaded.variables.params["backbone"]["class_token"], net.vit.embeddings.cls_token.detach().numpy()
    )


def test_half_precision_in_and_out(folder, tmp_path):
    hf_resnet("basic", width=4, depths=(1, 1)).to(torch.bfloat16).save_pretrained(tmp_path)
    wide, half = load(tmp_path), load(tmp_path, dtype=jnp.bfloat16)
    assert {a.dtype.name for a in jax.tree.leaves(wide.variables)} == {"float32"}
    assert {a.dtype.name for a in jax.tree.leaves(half.variables.params)} == {"bfloat16"}
    assert {a.dtype.name for a in jax.tree.leaves(half.variables.stats)} == {"float32"}
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)),
        wide.variables.params,
        half.variables.params,
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_type": "alien"}, ValueError, "model_type='alien' is not known; known are "),
        (
            {"downsample_in_bottleneck": True},
            ValueError,
            "downsample_in_bottleneck=True is not read, only with False",
        ),
        ({"hidden_sizes": [8, 8]}, ValueError, r"hidden_sizes=\[8, 8\] is not read, only with \[4, 8\]"),
        ({"layer_type": "deep"}, ValueError, "layer_type='deep'"),
        ({"depths": [1, 2]}, WeightNameError, "6 parameters are missing|8 parameters|10 parameters"),
    ],
)
def test_another_network_is_refused(folder, change, error, words):
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(error, match=words):
        load(folder, arch={**config, **change})


def test_what_is_known_is_listed(folder):
    file = folder / "model.safetensors"
    with pytest.raises(ValueError, match=r"a file alone does not say which.*`jtl inspect` tells which fits"):
        load(file)
    with pytest.raises(ValueError, match=r"arch='resnet51' is not known; near are.*resnet50"):
        load(file, arch="resnet51")
    with pytest.raises(
        ValueError, match=r"model_args \['stem_type'\].*known are \['layers', 'in_chans', 'drop_path_rate'\]"
    ):
        load(file, arch={"architecture": "resnet18", "model_args": {"stem_type": "deep"}})
    with pytest.raises(ValueError, match="neither 'model_type' nor 'architecture'"):
        load(file, arch={"type": "resnet18"})
    with pytest.raises(WeightNameError, match=r"none of the .* tensors .* has a name of akamaster"):
        load(file, arch="cifar_resnet20")
    with pytest.raises(FileNotFoundError, match="give a path, or 'hf:org/name'"):
        load(folder / "absent.pth", arch="resnet18")
    with pytest.raises(TypeError, match="classes='ants' is a string"):
        load(folder, classes="ants")


def test_a_config_that_is_no_object(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(WeightFileError, match="holds a list, not an object"):
        load(tmp_path)


@pytest.mark.parametrize(("side", "format"), [(8, None), (20, "jtl"), (12, None)])
def test_another_image_size_interpolates_the_positions_as_transformers_does(side, format, tmp_path):
    """To 1e-5: the interpolation is a sum of 16 products, in float32 there and here."""
    net = hf_vit()
    net.save_pretrained(tmp_path)
    if format:
        save(tmp_path / format, load(tmp_path), format=format)
    loaded = load(tmp_path / (format or ""), image=side)
    assert loaded.config.image_size == side
    x = images((side, side))
    with torch.no_grad():
        wanted = net(channels_first(x), interpolate_pos_encoding=True).logits
    close(jax.jit(predictor(loaded.network))(loaded.variables, x), wanted, 1e-5, "logits")


def test_preprocessing_follows_the_image_size(folder, tmp_path):
    hf_vit().save_pretrained(tmp_path)
    arch = {"architecture": "vit_tiny_patch4_12", "model_args": {"embed_dim": 24, "depth": 3, "num_heads": 4}}
    arch["model_args"]["mlp_ratio"] = 40 / 24
    assert load(tmp_path, arch=arch).preprocessing[:2] == (13, 12)
    assert load(tmp_path, arch=arch, image=24).preprocessing[:2] == (26, 24)
    hf_clip().save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="image=16: this clip has two towers"):
        load(tmp_path / "clip", image=16)
    with pytest.raises(ValueError, match="image=48: a resnet takes images of any size, and no preprocessing came"):
        load(folder, image=48)
    with pytest.raises(ValueError, match="image=48: a bert takes no images"):
        load(made.folder(tmp_path / "bert", made.BERT), image=48)
    with pytest.raises(ValueError, match=r"image=0: give the side"):
        load(tmp_path, image=0)
    with pytest.raises(ValueError, match=r"image=13 is no multiple of patch=4"):
        load(tmp_path, image=13)


@pytest.mark.parametrize("format", ["hf", "jtl"])
def test_a_convolutional_network_keeps_the_scale_of_another_image_size(format, folder, tmp_path):
    """What is trained at 48 pixels is saved with a preprocessing of 48 pixels; the network is the same."""
    usual = Preprocessing(256, 224, "bilinear", *IMAGENET)
    save(tmp_path / "usual", load(folder)._replace(preprocessing=usual), format=format)
    whole, small = load(tmp_path / "usual"), load(tmp_path / "usual", image=96)
    assert small.preprocessing == whole.preprocessing._replace(size=110, crop=96)
    assert small.config == whole.config
    jax.tree.map(np.testing.assert_array_equal, small.variables, whole.variables)
    save(tmp_path / "small", small, format=format)
    assert load(tmp_path / "small").preprocessing == small.preprocessing


PRETRAINED = ("BertForPreTraining", "RobertaForMaskedLM", "DistilBertForMaskedLM", "Wav2Vec2ForPreTraining", "ViTModel")


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_network_with_what_it_was_pretrained_by_says_how_to_be_loaded(name, tmp_path):
    """The published files of these families hold such; the message names what to leave, and what to draw."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if name.startswith("Distil"):
        sizes = {"dim": 12, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    if name.startswith("Wav2Vec2"):
        sizes |= {"num_conv_pos_embedding_groups": 2, "codevector_dim": 8, "proj_codevector_dim": 8}
    kind(kind.config_class(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(WeightNameError) as caught:
        load(tmp_path, classes=3, reinit=("head/.*",))
    options = follow(str(caught.value))
    loaded = load(tmp_path, classes=3, **options)
    assert loaded.variables.params["head"]["out"]["kernel"].shape[-1] == 3
    assert all(path.startswith(("head/", "backbone/pooler", "backbone/projection")) for path in loaded.report.reinit)
    assert loaded.report.unused
