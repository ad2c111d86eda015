"""`jtl.load` against the libraries that wrote the files: small networks, every tensor random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import channels_first, close, images, renamed, same_bits
from running import forward
from safetensors.numpy import load_file

from jtl.methods.finetune.finetune import predictor
from jtl.params import flatten
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from torch_references import hf_resnet, hf_vit
from torch_resnets import cifar_resnet, randomise

# Two sizes each, one odd: an odd image, unequal depths, a width that is no power of two.
NETS = {
    "resnet-basic": lambda: (hf_resnet("basic"), (45, 39)),
    "resnet-bottleneck": lambda: (hf_resnet("bottleneck", classes=3, width=6, depths=(1, 2)), (32, 32)),
    "vit": lambda: (hf_vit(), (12, 12)),
    "vit-odd": lambda: (hf_vit(classes=3, width=15, depth=2, heads=3, image=15, patch=5), (15, 15)),
}


@pytest.mark.parametrize("name", NETS)
def test_what_transformers_saves_computes_the_same(name, tmp_path):
    """Logits and every feature to 1e-5 in float32, gradients of all parameters to 1e-10 in float64."""
    theirs, size = NETS[name]()
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.naming == "transformers"
    x = images(size)
    run = forward(loaded.network, train=False)
    features, logits, _ = jax.jit(lambda v, x: run(v, x, None))(loaded.variables, x)
    with torch.no_grad():
        out = theirs(channels_first(x), output_hidden_states=True)
    close(logits, out.logits, 1e-5, "logits")
    channels_last = [h.movedim(1, -1) if h.ndim == 4 else h for h in out.hidden_states]
    assert {n for n in features if n.startswith("stage")} == {f"stage{i}" for i in range(1, len(channels_last))}
    for i, wanted in enumerate(channels_last[1:], 1):
        close(features[f"stage{i}"], wanted, 1e-5, f"stage{i}")

    with jax.enable_x64(True):
        exact = load(tmp_path, dtype=jnp.float64)
        assert {a.dtype.name for a in jax.tree.leaves(exact.variables)} == {"float64"}

        def loss(params):
            _, logits, _ = run(exact.variables._replace(params=params), x.astype(np.float64), None)
            return jnp.sin(logits).sum()

        grads = jax.jit(jax.grad(loss))(exact.variables.params)
    theirs = theirs.double()
    theirs(channels_first(x.astype(np.float64))).logits.sin().sum().backward()
    for parameter in theirs.parameters():
        parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "gradients")
    wanted = flatten(load(tmp_path / "gradients", dtype=jnp.float64).variables.params)
    for path, ours in flatten(grads).items():
        # A key's bias moves no softmax: its gradient is 0 but for rounding.
        np.testing.assert_allclose(
            ours, wanted[path], rtol=1e-9, atol=1e-10 * max(np.abs(wanted[path]).max(), 1), err_msg=path
        )


@pytest.mark.parametrize("name", NETS)
def test_file_to_jtl_to_file_is_bit_equal(name, tmp_path):
    net, _ = NETS[name]()
    net.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    counters = {n for n in held if n.endswith("num_batches_tracked")}
    assert set(loaded.report.unused) == counters
    same_bits(renamed(loaded, "transformers"), {n: a for n, a in held.items() if n not in counters})


def test_akamasters_names_in_a_th_file(tmp_path):
    net = randomise(cifar_resnet(20)).eval()
    state = {f"module.{n}": t for n, t in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "x.th", _use_new_zipfile_serialization=False)
    loaded = load(tmp_path / "x.th", arch="cifar_resnet20")
    x = images((32, 32))
    logits = jax.jit(predictor(loaded.network))(loaded.variables, x)
    with torch.no_grad():
        close(logits, net(channels_first(x)), 1e-5, "logits")
    held = {n: t.numpy() for n, t in state.items() if not n.endswith("num_batches_tracked")}
    same_bits(renamed(loaded, "akamaster"), held)
