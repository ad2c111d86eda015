"""CLIP and SigLIP against transformers' on randomised weights: both towers, each alone, and zero-shot classes."""

import ast
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import channels_first, close, images, same_bits
from safetensors.numpy import load_file

from jtl.methods.finetune.finetune import predictor
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.pretrained.zero_shot import towers, zero_shot

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from torch_resnets import randomise
from torch_vits import gradients, hf_clip, hf_siglip

# The legacy end of a text (2 in the config, the largest number in the text); SigLIP's image that patches do not fill.
NETS = {
    "clip": hf_clip,
    "clip-legacy-odd": lambda: hf_clip(15, 9, 5, 3, 3, end=2, image_size=15, patch_size=5, hidden_act="gelu"),
    "siglip": hf_siglip,
    "siglip-odd": lambda: hf_siglip(15, 3, 3, image_size=17, patch_size=5),
}


@pytest.fixture(scope="module", params=NETS)
def saved(request, tmp_path_factory):
    net = NETS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    net.save_pretrained(folder / "in")
    return net, folder


def texts(net):
    """Three texts of other lengths, each ended by 49, with token numbers that are larger after the end."""
    if net.config.model_type == "siglip":
        ids = np.random.default_rng(1).integers(0, 50, (3, 9)).astype(np.int32)
        return {"ids": ids, "mask": np.ones_like(ids, bool)}
    pad = 1 if net.config.text_config.eos_token_id == 2 else 49
    ids = np.array([[48, 3, 7, 11, 20, 2, 49, pad], [48, 9, 49, *[pad] * 5], [48, 5, 6, 7, 8, 9, 10, 49]], np.int32)
    return {"ids": ids, "mask": np.arange(8) < np.array([[7], [3], [8]])}


def inputs(net, dtype=np.float32):
    side = net.config.vision_config.image_size
    return {"image": images((side, side)).astype(dtype), "text": texts(net)}


def theirs(net, x):
    """What transformers makes of the same, with its hidden states."""
    more = {} if net.config.model_type == "siglip" else {"attention_mask": torch.tensor(x["text"]["mask"].astype(int))}
    ids = torch.tensor(x["text"]["ids"].astype(np.int64))
    return net(input_ids=ids, pixel_values=channels_first(x["image"]), output_hidden_states=True, **more)


def compare(features, out, tolerance):
    wanted = {"image": out.image_embeds, "text": out.text_embeds, "logits": out.logits_per_image}
    wanted["pooled"] = out.image_embeds
    assert set(features) == set(wanted)
    for name, value in wanted.items():
        close(features[name], value.detach(), tolerance, name)


def test_both_towers(saved):
    """Embeddings and logits to 1e-10 in float64, gradients of all parameters to 1e-9; float32 is compared below."""
    net, folder = saved
    wide = inputs(net, np.float64)
    with jax.enable_x64(True):
        exact = load(folder / "in", dtype=jnp.float64)

        def loss(params):
            variables = exact.variables._replace(params=params)
            features, _ = exact.backbone.apply(variables, wide, train=True, key=jax.random.key(0))
            return jnp.sin(features["logits"]).sum(), features

        grads, features = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params["backbone"])
    double = doubled(net, folder)
    out = theirs(double, wide)
    compare(features, out, 1e-10)
    out.logits_per_image.sin().sum().backward()
    gradients(double, folder / "gradients")
    wanted = flatten(load(folder / "gradients", dtype=jnp.float64).variables.params["backbone"])
    for path, ours in flatten(grads).items():
        # A key's bias moves no softmax: its gradient is 0 but for rounding.
        np.testing.assert_allclose(
            ours, wanted[path], rtol=1e-9, atol=1e-10 * max(np.abs(wanted[path]).max(), 1), err_msg=path
        )


def doubled(net, folder):
    return type(net).from_pretrained(folder / "in").double().eval()


def test_each_tower_alone(saved):
    """Every feature to 1e-5; hidden states come after each block, before the last normalisation."""
    net, folder = saved
    x = inputs(net)
    out = theirs(net, x)
    clip = net.config.model_type == "clip"
    image, text = towers(load(folder / "in"))
    for tower, given, hidden in (
        (image, x["image"], out.vision_model_output),
        (text, x["text"], out.text_model_output),
    ):
        run = jax.jit(lambda v, x, tower=tower: tower.backbone.apply(v, x, train=False)[0])
        features = run(tower.variables._replace(params=tower.variables.params["backbone"]), given)
        found = {f"stage{i}": h for i, h in enumerate(hidden.hidden_states[1:], 1)}
        found["pooled"] = hidden.pooler_output
        if tower is text or not clip:
            found["last"] = hidden.last_hidden_state
        for name, wanted in found.items():
            close(features[name], wanted.detach(), 1e-5, name)
        assert set(features) - set(found) <= {"last", "token"}


def test_zero_shot_classes_are_the_two_towers_logits(saved):
    net, folder = saved
    x = inputs(net)
    classifier = zero_shot(load(folder / "in"), x["text"], ("ant", "bee", "wasp"))
    logits = jax.jit(predictor(classifier.network))(classifier.variables, x["image"])
    close(logits, theirs(net, x).logits_per_image.detach(), 1e-5, "logits")
    assert classifier.labels == ("ant", "bee", "wasp")


def test_several_texts_of_a_class_are_averaged(saved):
    """The mean of the texts' directions, of length 1 again, as the paper has it."""
    net, folder = saved
    x = inputs(net)
    twice = {name: np.stack([a[[0, 1]], a[[2, 2]]]) for name, a in x["text"].items()}
    classifier = zero_shot(load(folder / "in"), twice)
    out = theirs(net, x)
    first = out.text_embeds[0] + out.text_embeds[1]
    rows = torch.stack([first / first.norm(), out.text_embeds[2]])
    kernel = classifier.variables.params["head"]["out"]["kernel"]
    close(kernel, (net.logit_scale.exp() * rows.T).detach(), 1e-5, "kernel")


def test_is_written_as_it_was_read(saved):
    net, folder = saved
    loaded = load(folder / "in")
    save(folder / "out", loaded)
    same_bits(*(load_file(folder / f / "model.safetensors") for f in ("out", "in")))
    again, account = transformers.AutoModel.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(account.values()), account
    assert type(again) is type(net)
    x = inputs(net)
    with torch.no_grad():
        same = theirs(again.eval(), x).logits_per_image.numpy(), theirs(net, x).logits_per_image.numpy()
    np.testing.assert_array_equal(*same)


ALONE = {
    "CLIPVisionModel": lambda net: net.config.vision_config,
    "CLIPVisionModelWithProjection": lambda net: net.config.vision_config,
    "CLIPTextModel": lambda net: net.config.text_config,
    "CLIPTextModelWithProjection": lambda net: net.config.text_config,
    "SiglipVisionModel": lambda net: net.config.vision_config,
    "SiglipTextModel": lambda net: net.config.text_config,
}


@pytest.mark.parametrize("name", ALONE)
def test_files_of_one_tower(name, tmp_path):
    """transformers' own files of a tower, read and written."""
    both = hf_clip() if "CLIP" in name else hf_siglip()
    net = randomise(getattr(transformers, name)(ALONE[name](both))).eval()
    net.save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    x = inputs(both)["image" if "Vision" in name else "text"]
    own = loaded.variables._replace(params=loaded.variables.params["backbone"])
    features = jax.jit(lambda v, x: loaded.backbone.apply(v, x, train=False)[0])(own, x)
    if "Vision" in name:
        out = net(channels_first(x))
    else:
        mask = {} if "Siglip" in name else {"attention_mask": torch.tensor(x["mask"].astype(int))}
        out = net(torch.tensor(x["ids"].astype(np.int64)), **mask)
    found = (getattr(out, n, None) for n in ("image_embeds", "text_embeds", "pooler_output"))
    wanted = next(value for value in found if value is not None)
    close(features["pooled"], wanted.detach(), 1e-5, name)
    save(tmp_path / "out", loaded)
    same_bits(*(load_file(tmp_path / f / "model.safetensors") for f in ("out", "in")))
    again, account = type(net).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(account.values()), account
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [name]
    assert type(again) is type(net)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_tower_of_transformers_classifier_of_images(kind, tmp_path):
    """Not a network of two towers of which one is re-initialised; what the message says gives the tower."""
    both, name = (hf_clip(), "CLIP") if kind == "clip" else (hf_siglip(), "Siglip")
    net = randomise(getattr(transformers, f"{name}ForImageClassification")(both.config)).eval()
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{name}ForImageClassification .*'vision_config', with model_type=") as caught:
        load(tmp_path)
    said = re.search(r"model_type='(\w+)', and unused=(\(.*\))", str(caught.value))
    assert said
    arch = json.loads((tmp_path / "config.json").read_text())["vision_config"] | {"model_type": said[1]}
    loaded, x = load(tmp_path, arch=arch, unused=ast.literal_eval(said[2])), inputs(both)["image"]
    pooled = jax.jit(lambda v: predictor(loaded.network)(v, x))(loaded.variables)
    with torch.no_grad():
        close(pooled, net.vision_model(channels_first(x)).pooler_output, 1e-5, "pooled")
