"""OpenCLIP's files, and OpenAI's, against transformers' CLIP with the same numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import channels_first, close, images, renamed, same_bits

from jtl.preprocess.image import HALF, OPENAI, Preprocessing
from jtl.pretrained.inspect import inspect
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.pretrained.save import save

CONFIG = {
    "model_cfg": {
        "embed_dim": 6,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 12, "layers": 2, "width": 12, "head_width": 6, "patch_size": 4, "mlp_ratio": 1.95},
        "text_cfg": {
            "context_length": 9,
            "vocab_size": 50,
            "width": 8,
            "heads": 2,
            "layers": 2,
            "mlp_ratio": 1.9,
            "pool_type": "argmax",
            "ls_init_value": None,
            "tokenizer_kwargs": {"clean": "canonicalize"},
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"},
}


def test_is_transformers_clip_by_other_names(tmp_path):
    """Embeddings and logits to 1e-10 in float64, OpenCLIP's padding of zeros included."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    from torch_vits import hf_clip

    net = hf_clip(end=2)  # where the largest number ends a text
    theirs = net.state_dict()
    file = {}
    for top, tower, first in (("visual.", "vision_model", "pre_layrnorm"), ("", "text_model", "")):
        ends = {f"{top}ln_pre": first, "visual.ln_post": "post_layernorm"} if top else {"ln_final": "final_layer_norm"}
        for name, module in ends.items():
            file |= {f"{name}.{leaf}": theirs[f"{tower}.{module}.{leaf}"] for leaf in ("weight", "bias")}
        for i in range(2):
            block, layer = f"{top}transformer.resblocks.{i}", f"{tower}.encoder.layers.{i}"
            for leaf in ("weight", "bias"):
                parts = [theirs[f"{layer}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
                file[f"{block}.attn.in_proj_{leaf}"] = torch.cat(parts)
                for name, module in (
                    ("ln_1", "layer_norm1"),
                    ("ln_2", "layer_norm2"),
                    ("attn.out_proj", "self_attn.out_proj"),
                    ("mlp.c_fc", "mlp.fc1"),
                    ("mlp.c_proj", "mlp.fc2"),
                ):
                    file[f"{block}.{name}.{leaf}"] = theirs[f"{layer}.{module}.{leaf}"]
        file[f"{top}positional_embedding"] = theirs[f"{tower}.embeddings.position_embedding.weight"]
    file |= {
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T.contiguous(),
        "logit_scale": theirs["logit_scale"],
    }
    sizes = {name: torch.tensor(9) for name in ("input_resolution", "context_length", "vocab_size")}  # OpenAI's
    (tmp_path / "in").mkdir()
    torch.save(file | sizes, tmp_path / "in" / "open_clip_pytorch_model.bin")
    (tmp_path / "in" / "open_clip_config.json").write_text(json.dumps(CONFIG))
    assert "tensors have a name of clip, by the names of open_clip" in inspect(tmp_path / "in")
    loaded = load(tmp_path / "in")
    assert (loaded.naming, loaded.labels) == ("open_clip", None)
    assert loaded.preprocessing == Preprocessing((12, 12), None, "bilinear", *HALF)
    same_bits(renamed(loaded, "open_clip"), file)
    ids = np.array([[48, 3, 7, 11, 20, 2, 49, 0], [48, 9, 49, *[0] * 5], [48, 5, 6, 7, 8, 9, 10, 49]], np.int32)
    x = {"image": images((12, 12)).astype(np.float64), "text": {"ids": ids, "mask": np.ones_like(ids, bool)}}
    with jax.enable_x64(True):
        exact = load(tmp_path / "in", dtype=jnp.float64)
        own = exact.variables._replace(params=exact.variables.params["backbone"])
        found = jax.jit(lambda v, x: exact.backbone.apply(v, x, train=False)[0])(own, x)
    given = {"input_ids": torch.tensor(ids.astype(np.int64)), "pixel_values": channels_first(x["image"])}
    save(tmp_path / "out", loaded)
    again, account = transformers.CLIPModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(account.values()), account
    for module in (net, again):
        with torch.no_grad():
            wanted = module.double().eval()(**given)
        for name, value in (("image", wanted.image_embeds), ("text", wanted.text_embeds)):
            close(found[name], value, 1e-10, name)
        close(found["logits"], wanted.logits_per_image, 1e-10, "logits")


@pytest.mark.parametrize(
    ("width", "ratio", "head", "sizes"),
    [(768, 4.0, 64, (12, 3072)), (1408, 4.3637, 88, (16, 6144)), (1664, 4.9231, 104, (16, 8192))],
)
def test_measures_of_the_published_towers(width, ratio, head, sizes):
    """Those of ViT-B, g and bigG."""
    vision = {"width": width, "head_width": head, "mlp_ratio": ratio, "patch_size": 14}
    found = recognise(None, {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": {}}})
    tower, text = found.entries["vision_config"], found.entries["text_config"]
    assert (tower["num_attention_heads"], tower["intermediate_size"]) == sizes
    assert (tower["hidden_act"], tower["patch_size"]) == ("gelu", 14)
    assert (text["intermediate_size"], text["vocab_size"], text["max_position_embeddings"]) == (2048, 49408, 77)
    assert found.preprocessing == Preprocessing(224, 224, "bicubic", *OPENAI)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("vision_cfg", {"timm_model_name": "convnext_base"}, "vision_cfg with .*convnext_base.* is not read, only"),
        ("vision_cfg", {"layers": [3, 4, 6, 3], "patch_size": None}, r"layers=\[3, 4, 6, 3\] is CLIP's own ResNet"),
        ("vision_cfg", {"ls_init_value": 1e-4}, "'ls_init_value': 0.0001"),
        ("vision_cfg", {"head_width": 0}, "head_width=0: give a whole number"),
        ("vision_cfg", {"layers": 0}, "vision_cfg with layers=0: give a whole number"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "text_cfg with .*roberta-base"),
        ("text_cfg", {"pool_type": "last"}, "'pool_type': 'last'"),
        ("text_cfg", {"mlp_ratio": "4"}, "mlp_ratio='4': give a number"),
        (None, {"custom_text": True}, "model_cfg with {'custom_text': True}"),
        (None, {"vision_cfg": 3}, "vision_cfg=3: give names and values"),
        (None, {"embed_dim": None}, "embed_dim=None: give a whole number"),
        (None, {"quick_gelu": 1}, "quick_gelu=1: give true or false"),
    ],
)
def test_what_is_another_network_is_refused(part, changes, said):
    model = json.loads(json.dumps(CONFIG["model_cfg"]))
    (model[part] if part else model).update(changes)

    def read():
        family, config, *_ = recognise(None, {"model_cfg": model})
        family.complete(config, "open_clip")

    with pytest.raises(ValueError, match=said):
        read()


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("resize_mode", "longest", "resize_mode='longest': give one of"),
        ("interpolation", "lanczos", "interpolation='lanczos': give one of"),
        ("mean", [], r"mean='\[\]': give a number for each channel"),
    ],
)
def test_images_that_are_prepared_otherwise_are_refused(entry, value, said):
    with pytest.raises(ValueError, match=said):
        recognise(None, {**CONFIG, "preprocess_cfg": {entry: value}})
