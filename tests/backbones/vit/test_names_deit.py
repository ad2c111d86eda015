"""Distilled DeiTs, with both classifiers and with the class token's alone, against transformers' on random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import channels_first, close, images, renamed, same_bits, same_gradients, same_outputs, tree_of
from running import forward
from safetensors.numpy import load_file, save_file

from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.pretrained.save import save
from jtl.weights import WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from torch_vits import gradients, hf_deit

ODD = {"classes": 3, "width": 15, "depth": 3, "image": 15, "patch": 5}
CASES = {
    "both": {},
    "both-odd": ODD,
    "class-token": {"kind": "ForImageClassification"},
    "class-token-odd": {"kind": "ForImageClassification", **ODD},
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """A network of transformers and its folder."""
    net = hf_deit(**CASES[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    net.save_pretrained(folder / "in")
    return type(net), folder


def run(loaded, x):
    apply = forward(loaded.network, train=False)
    return jax.jit(lambda v, x: apply(v, x, None)[:2])(loaded.variables, x)


def outputs(net, x):
    """transformers' logits, and its features by our names."""
    out = net.deit(channels_first(x), output_hidden_states=True)
    found = {f"stage{i}": h for i, h in enumerate(out.hidden_states[1:], 1)}
    both, last = hasattr(net, "cls_classifier"), out.last_hidden_state
    return net(channels_first(x)).logits, found | {"last": last, "pooled": last[:, : 1 + both].flatten(1)}


def test_is_transformers_deit(saved):
    """Features and logits to 1e-5 in float32, to 1e-10 in float64 and in training, gradients to 1e-9."""
    kind, folder = saved
    net = kind.from_pretrained(folder / "in").eval()
    x = images((net.config.image_size,) * 2)
    same_outputs(*run(load(folder / "in"), x), *outputs(net, x), 1e-5)
    x = x.astype(np.float64)
    with jax.enable_x64(True):
        exact = load(folder / "in", dtype=jnp.float64)

        def loss(params):
            apply = forward(exact.network, train=True)
            features, logits, _ = apply(exact.variables._replace(params=params), x, jax.random.key(0))
            return jnp.sin(logits).sum(), (features, logits)

        grads, (features, logits) = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params)
    theirs, wanted = outputs(net.double(), x)
    same_outputs(features, logits, theirs, wanted, 1e-10)
    theirs.sin().sum().backward()
    gradients(net, folder / "gradients")
    same_gradients(grads, folder / "gradients")


def test_is_written_as_it_was_read(saved):
    kind, folder = saved
    save(folder / "out", load(folder / "in"))
    same_bits(*(load_file(folder / f / "model.safetensors") for f in ("out", "in")))
    theirs, account = transformers.AutoModelForImageClassification.from_pretrained(
        folder / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    assert type(theirs) is kind
    save(folder / "own", load(folder / "out"), format="jtl")
    same_bits(*(dict(flatten(tree_of(load(folder / f)))) for f in ("own", "in")))


def test_another_size_is_made_as_transformers_has_it(saved):
    """The positions of both tokens stay."""
    kind, folder = saved
    net = kind.from_pretrained(folder / "in")
    patch = net.config.patch_size
    for count in (1, 2, 5):
        resized = load(folder / "in", image=count * patch)
        tokens = torch.zeros(1, 2 + count**2, net.config.hidden_size)
        wanted = net.deit.embeddings.interpolate_pos_encoding(tokens, count * patch, count * patch)
        close(resized.variables.params["backbone"]["position"], wanted.detach(), 1e-5, str(count))


def test_new_classifiers_and_first_blocks(saved):
    """What `reinit` draws has its shape without a trace of the backbone, and transformers loads what came of it."""
    kind, folder = saved
    with pytest.raises(WeightNameError, match=r"head/out/kernel: the model has shape \(1[25], 2\)"):
        load(folder / "in", classes=2)
    new = load(folder / "in", classes=("ant", "bee"), reinit=("head/.*",), stages=1)
    save(folder / "new", new)
    theirs = kind.from_pretrained(folder / "new").eval()
    assert theirs.config.id2label == {0: "ant", 1: "bee"}
    x = images((theirs.config.image_size,) * 2)
    same_outputs(*run(new, x), *outputs(theirs, x), 1e-5)


def test_a_file_without_a_classifier_gives_both_tokens(tmp_path):
    """Its pooler is another layer that jtl's networks have not, as of a ViT."""
    net = hf_deit("Model")
    net.save_pretrained(tmp_path)
    with pytest.raises(WeightNameError, match=r"pooler\.dense\.bias"):
        load(tmp_path)
    x = images((12, 12))
    _, tokens = run(load(tmp_path, unused=("pooler.*",)), x)
    close(tokens, net(channels_first(x)).last_hidden_state[:, :2].flatten(1).detach(), 1e-5, "tokens")


def test_timms_names_and_none_for_the_class_token_alone(tmp_path):
    hf_deit().save_pretrained(tmp_path / "both")
    both = load(tmp_path / "both")
    state = renamed(both, "timm")
    assert {n.rpartition(".")[0] for n in state if "head" in n} == {"head", "head_dist"}
    save_file(state, tmp_path / "x.safetensors")
    measures = {"img_size": 12, "patch_size": 4, "embed_dim": 12, "depth": 2, "mlp_ratio": 23 / 12}
    arch = {"architecture": "deit_tiny_distilled_patch16_224.fb_in1k", "model_args": measures}
    same = load(tmp_path / "x.safetensors", arch=arch)
    assert (same.naming, same.config.layer_norm_eps) == ("timm", 1e-6)
    same_bits(*(dict(flatten(tree_of(loaded))) for loaded in (same, both)))
    hf_deit("ForImageClassification").save_pretrained(tmp_path / "alone")
    with pytest.raises(ValueError, match=r"timm has no network.*\['hf', 'jtl'\]"):
        save(tmp_path / "out", load(tmp_path / "alone"), format="timm")


def test_images_go_in_as_the_published_files_have_them(tmp_path):
    """Squeezed into a square, and cut out of it: for images of another size too."""
    net = hf_deit()
    net.save_pretrained(tmp_path)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    told = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "resample": 3, **half}
    flags = {f"do_{what}": True for what in ("resize", "center_crop", "normalize")}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | flags))
    assert load(tmp_path).preprocessing == ((256, 256), 224, "bicubic", (0.5,) * 3, (0.5,) * 3, "floor")
    assert load(tmp_path, image=28).preprocessing == ((32, 32), 28, "bicubic", (0.5,) * 3, (0.5,) * 3, "floor")


def test_images_go_in_as_timm_has_them():
    for name, resized, crop in (("tiny_distilled_patch16_224", 248, 224), ("base_distilled_patch16_384", 384, 384)):
        found = recognise(None, f"deit_{name}.fb_in1k")
        assert found.entries["model_type"] == "deit"
        assert found.preprocessing == (resized, crop, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "round")
