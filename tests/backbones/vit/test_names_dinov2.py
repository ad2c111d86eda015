"""DINOv2, without registers and with, against transformers' on randomised weights; and the names of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import channels_first, close, images, renamed, same_bits, tree_of
from running import forward
from safetensors.numpy import load_file, save_file

from jtl.backbones.registry import FAMILIES
from jtl.backbones.vit.names_dinov2 import no_class
from jtl.params import flatten, unflatten
from jtl.pretrained.load import load
from jtl.pretrained.outline import outline
from jtl.pretrained.save import save
from jtl.weights import WeightNameError, export

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from torch_vits import gradients, hf_dinov2

# Options of the network, and another size of images than its own: rectangles of 4x2 and 2x4 patches.
CASES = {
    "plain": ({}, (16, 8)),
    "registers-odd": ({"registers": 3, "classes": 3, "width": 15, "depth": 3, "image": 15, "patch": 5}, (10, 24)),
    "swiglu-odd": ({"swiglu": True, "width": 15, "image": 15, "patch": 5}, (10, 5)),
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """A network of transformers, its folder, and the sizes of images."""
    options, other = CASES[request.param]
    net = hf_dinov2(**options)
    folder = tmp_path_factory.mktemp(request.param)
    net.save_pretrained(folder / "in")
    side = net.config.image_size
    return net, folder, (side, side), other


def run(loaded, x, train=False):
    key = jax.random.key(0) if train else None
    apply = forward(loaded.network, train=train)
    return jax.jit(lambda v, x: apply(v, x, key)[:2])(loaded.variables, x)


def compare(features, logits, net, x, tolerance):
    """Checks every feature and gives transformers' logits."""
    inner = getattr(net, net.config.model_type)
    out = inner(channels_first(x), output_hidden_states=True)
    found = {f"stage{i}": h for i, h in enumerate(out.hidden_states[1:], 1)}
    found |= {"last": out.last_hidden_state, "token": out.pooler_output}
    for name, wanted in found.items():
        close(features[name], wanted.detach(), tolerance, name)
    assert set(features) == {*found, "pooled"}
    theirs = net(channels_first(x)).logits
    close(logits, theirs.detach(), tolerance, "logits")
    return theirs


def test_is_transformers_dinov2(saved):
    """Features and logits to 1e-5 in float32, of images of another size too, gradients in float64 to 1e-9."""
    net, folder, side, other = saved
    loaded = load(folder / "in")
    for size in (side, other):
        compare(*run(loaded, images(size)), net, images(size), 1e-5)
    x = images(side).astype(np.float64)
    with jax.enable_x64(True):
        exact = load(folder / "in", dtype=jnp.float64)

        def loss(params):
            apply = forward(exact.network, train=True)
            features, logits, _ = apply(exact.variables._replace(params=params), x, jax.random.key(0))
            return jnp.sin(logits).sum(), (features, logits)

        grads, (features, logits) = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params)
    net = net.double()
    compare(features, logits, net, x, 1e-10).sin().sum().backward()
    gradients(net, folder / "gradients")
    wanted = flatten(load(folder / "gradients", dtype=jnp.float64).variables.params)
    assert not wanted["backbone/mask_token"].any()
    for path, ours in flatten(grads).items():
        # A key's bias moves no softmax: its gradient is 0 but for rounding.
        np.testing.assert_allclose(
            ours, wanted[path], rtol=1e-9, atol=1e-10 * max(np.abs(wanted[path]).max(), 1), err_msg=path
        )


def test_is_written_as_it_was_read(saved):
    net, folder, *_ = saved
    save(folder / "out", load(folder / "in"))
    same_bits(*(load_file(folder / f / "model.safetensors") for f in ("out", "in")))
    theirs, account = transformers.AutoModelForImageClassification.from_pretrained(
        folder / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    assert type(theirs) is type(net)


def test_another_size_is_made_as_transformers_has_it(saved):
    """`image=` interpolates the embeddings at once, where both networks would at every call."""
    kind, folder = type(saved[0]), saved[1]
    net = kind.from_pretrained(folder / "in")  # another test leaves gradients in the weights of the one saved
    patch = net.config.patch_size
    for count in (2, 5):
        resized = load(folder / "in", image=count * patch)
        tokens = torch.zeros(1, 1 + count**2, net.config.hidden_size)
        embeddings = getattr(net, net.config.model_type).embeddings
        wanted = embeddings.interpolate_pos_encoding(tokens, count * patch, count * patch)
        close(resized.variables.params["backbone"]["position"], wanted.detach(), 1e-5, str(count))
        assert resized.config.image_size == count * patch


def test_a_file_without_a_classifier_gives_embeddings_or_a_new_classifier(tmp_path):
    net = hf_dinov2(classes=None)
    net.save_pretrained(tmp_path / "in")
    assert not load(tmp_path / "in").variables.params["head"]
    new = load(tmp_path / "in", classes=("ant", "bee"), reinit=("head/.*",))
    x = images((12, 12))
    features, logits = run(new, x)
    out = net(channels_first(x))
    close(features["token"], out.pooler_output.detach(), 1e-5, "token")
    close(features["pooled"][:, 12:], out.last_hidden_state[:, 1:].mean(1).detach(), 1e-5, "mean of the patches")
    save(tmp_path / "out", new)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == {0: "ant", 1: "bee"}
    close(logits, theirs(channels_first(x)).logits.detach(), 1e-5, "logits")


def renamed_by_hand(held, registers):
    """The file of transformers by the names of facebookresearch/dinov2."""
    plain = {n.removeprefix("dinov2_with_registers.").removeprefix("dinov2."): a for n, a in held.items()}
    found = {
        "cls_token": plain["embeddings.cls_token"],
        "mask_token": plain["embeddings.mask_token"],
        "pos_embed": plain["embeddings.position_embeddings"],
        **({"register_tokens": plain["embeddings.register_tokens"]} if registers else {}),
    }
    for leaf in ("weight", "bias"):
        found[f"patch_embed.proj.{leaf}"] = plain[f"embeddings.patch_embeddings.projection.{leaf}"]
        found[f"norm.{leaf}"] = plain[f"layernorm.{leaf}"]
        for i in range(2):
            there, here = f"encoder.layer.{i}", f"blocks.{i}"
            parts = [plain[f"{there}.attention.attention.{part}.{leaf}"] for part in ("query", "key", "value")]
            found[f"{here}.attn.qkv.{leaf}"] = np.concatenate(parts)
            found[f"{here}.attn.proj.{leaf}"] = plain[f"{there}.attention.output.dense.{leaf}"]
            gated = f"{there}.mlp.weights_in.{leaf}" in plain
            theirs = {"mlp.w12": "mlp.weights_in", "mlp.w3": "mlp.weights_out"}
            for name in ("norm1", "norm2", *(theirs if gated else ("mlp.fc1", "mlp.fc2"))):
                found[f"{here}.{name}.{leaf}"] = plain[f"{there}.{theirs.get(name, name)}.{leaf}"]
    for i in range(2):
        for number in (1, 2):
            found[f"blocks.{i}.ls{number}.gamma"] = plain[f"encoder.layer.{i}.layer_scale{number}.lambda1"]
    return found


def as_timm(found):
    """timm drops the mask token and, with registers, adds the class token's position to the token."""
    found = {n: a for n, a in found.items() if n != "mask_token"}
    found = {n.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): a for n, a in found.items()}
    if "register_tokens" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return {n: np.ascontiguousarray(a) for n, a in found.items()}


def another_size_of_the_original(file, arch):
    """facebookresearch/dinov2 scales by (side + 0.1) / n: its `interpolate_offset`, which is 0 with registers."""
    table = torch.tensor(load_file(file)["pos_embed"])
    for side in (2, 5):
        square, scale = table[:, 1:].reshape(1, 3, 3, -1).permute(0, 3, 1, 2), (side + 0.1) / 3
        wanted = torch.nn.functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
        wanted = torch.cat([table[:, :1], wanted.permute(0, 2, 3, 1).reshape(1, side * side, -1)], 1)
        position = load(file, arch=arch, image=4 * side).variables.params["backbone"]["position"]
        close(position, wanted, 1e-5, str(side))


@pytest.mark.parametrize(("registers", "swiglu"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("kind", ["original", "timm"])
def test_names_of_other_libraries(registers, swiglu, kind, tmp_path):
    net = hf_dinov2(registers=registers, classes=None, swiglu=swiglu)
    net.save_pretrained(tmp_path / "in")
    found = renamed_by_hand(load_file(tmp_path / "in" / "model.safetensors"), registers)
    found = as_timm(found) if kind == "timm" else found
    save_file(found, tmp_path / "x.safetensors")
    measures = {"img_size": 12, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    measures |= {"reg_tokens": registers} if registers else {}
    measures |= {"mlp_ratio": 8 / 3} if swiglu else {}  # of both halves, where transformers' 2 is of neither
    name = f"vit_{'giant' if swiglu else 'small'}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m"
    loaded = load(tmp_path / "x.safetensors", arch={"architecture": name, "model_args": measures})
    assert loaded.naming == kind
    same_bits(renamed(loaded, kind), found)
    if kind == "original" and not registers:
        another_size_of_the_original(tmp_path / "x.safetensors", {"architecture": name, "model_args": measures})
    ours, wanted = (flatten(tree_of(x)) for x in (loaded, load(tmp_path / "in")))
    if kind == "timm":
        # The class token and its position are only ever seen added up.
        for params in (ours, wanted):
            position = np.array(params["backbone/position"])
            params["backbone/class_token"] = params["backbone/class_token"] + position[:, :1]
            params["backbone/position"] = position[:, 1:]
        del wanted["backbone/mask_token"]
    same_bits(dict(ours), dict(wanted))


def test_timms_classifier_sees_the_class_token_alone(tmp_path):
    """Of a file with one, and on request of a file without; else a new one sees the mean of the patches too."""
    net = hf_dinov2(classes=None)
    net.save_pretrained(tmp_path / "in")
    body = as_timm(renamed_by_hand(load_file(tmp_path / "in" / "model.safetensors"), 0))
    rng = np.random.default_rng(0)
    head = {f"head.{leaf}": rng.normal(size=s).astype(np.float32) for leaf, s in (("weight", (3, 12)), ("bias", 3))}
    save_file(body, tmp_path / "body.safetensors")
    save_file(body | head, tmp_path / "whole.safetensors")
    measures = {"img_size": 12, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    arch = {"architecture": "vit_small_patch14_dinov2", "model_args": measures}
    loaded, x = load(tmp_path / "whole.safetensors", arch=arch), images((12, 12))
    features, logits = run(loaded, x)
    token = net(channels_first(x)).pooler_output.detach().numpy()
    close(features["pooled"], token, 1e-5, "pooled")
    close(logits, token @ head["head.weight"].T + head["head.bias"], 1e-5, "logits")
    save(tmp_path / "timm", loaded, format="timm")
    save(tmp_path / "own", loaded, format="jtl")
    for folder in ("timm", "own"):
        again = load(tmp_path / folder)
        same_bits(dict(flatten(tree_of(again))), dict(flatten(tree_of(loaded))))
        np.testing.assert_array_equal(run(again, x)[1], logits)
    same_bits(load_file(tmp_path / "timm" / "model.safetensors"), body | head)
    with pytest.raises(ValueError, match="transformers has no network of the family 'dinov2'"):
        save(tmp_path / "hf", loaded)
    new = {"classes": 2, "reinit": ("head/.*",)}
    both = load(tmp_path / "body.safetensors", arch=arch, **new)
    assert both.variables.params["head"]["out"]["kernel"].shape == (24, 2)
    with pytest.raises(ValueError, match=r"no network of timm has.*pool='token\+mean' in place of 'token'"):
        save(tmp_path / "no", both, format="timm")
    arch["model_args"]["global_pool"] = "token"
    asked = load(tmp_path / "body.safetensors", arch=arch, **new)
    save(tmp_path / "asked", asked, format="timm")
    assert load_file(tmp_path / "asked" / "model.safetensors")["head.weight"].shape == (2, 12)
    arch["model_args"]["global_pool"] = "avg"
    with pytest.raises(ValueError, match=r"pool='?avg'?: give one of \['token', 'token\+mean'\]"):
        load(tmp_path / "body.safetensors", arch=arch)


def test_timm_has_no_place_for_the_class_tokens_position():
    with pytest.raises(ValueError, match="the class token's position embedding is not zero"):
        no_class.inverse(np.ones((1, 5, 2), np.float32))


def test_a_class_tokens_position_that_was_trained_is_saved_in_the_token(tmp_path):
    sizes = {"img_size": 12, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
    arch = {"architecture": "vit_small_patch14_reg4_dinov2", "model_args": sizes}
    family, draw = FAMILIES["dinov2_with_registers"], np.random.default_rng(0)
    config = family.complete(family.named("vit_small_patch14_reg4_dinov2", sizes) or {}, "timm")
    drawn = {path: draw.random(shape, np.float32) for path, shape in outline(family, config, 3).items()}
    drawn["backbone/position"][:, 0] = 0
    save_file(export(unflatten(drawn), family.tables(config)["timm"]), tmp_path / "in.safetensors")
    loaded = load(tmp_path / "in.safetensors", arch=arch)
    tuned = jax.tree.map(lambda a: a + np.float32(0.5), loaded.variables)
    save(tmp_path / "out", loaded, tuned, format="timm")
    again, x = load(tmp_path / "out"), images((12, 12))
    close(run(again, x)[1], run(loaded._replace(variables=tuned), x)[1], 1e-5, "logits")
    body = tuned.params["backbone"]
    token = body["class_token"] + body["position"][:, :1]
    np.testing.assert_array_equal(again.variables.params["backbone"]["class_token"], token)


def test_what_is_not_read_is_named(tmp_path):
    hf_dinov2().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"use_swiglu_ffn": false', '"use_swiglu_ffn": "yes"'))
    with pytest.raises(ValueError, match=r"use_swiglu_ffn='?yes'?: give true or false"):
        load(tmp_path)
    ratio = {"architecture": "vit_giant_patch14_dinov2", "model_args": {"mlp_ratio": "4"}}
    with pytest.raises(ValueError, match=r"mlp_ratio=.*4.*: give a number from 0 to 64"):
        load(tmp_path / "model.safetensors", arch=ratio)
    hf_dinov2(registers=2).save_pretrained(tmp_path / "x")
    held = load_file(tmp_path / "x" / "model.safetensors")
    held = {n: a for n, a in held.items() if "mask_token" not in n}
    save_file(held, tmp_path / "x" / "model.safetensors")
    with pytest.raises(WeightNameError, match="backbone/mask_token"):
        load(tmp_path / "x")
