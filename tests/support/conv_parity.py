"""One comparison for every convolutional family: a torch network and what jtl reads from its file."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loading import channels_first, close, same_bits
from running import forward
from safetensors.numpy import load_file

from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.save import save

# XLA takes 25 s to optimise the float64 gradient of four convolutions, for a network that runs for milliseconds.
QUICKLY: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def check(net: Any, write: Any, read: Any, theirs: Any, x: np.ndarray, folder: Any, hidden: tuple = ()) -> Any:
    """Features, logits, running statistics and gradients, in evaluation and in training.

    To 1e-5 in float32 (evaluation). In float64 to 1e-10, and gradients through tens of layers and their batches'
    normalisations to 1e-9.

    Args:
      net: torch's, in evaluation mode, without dropout.
      write: `write(net, path)` saves parameters and statistics as its library does.
      read: `read(path, dtype)` is `jtl.load`.
      theirs: `theirs(net, x) -> features` by jtl's names, maps channels first, and "logits".
      x: images.
      folder: for the files.
      hidden: features that the reference does not tell.

    Returns:
      What was loaded in float32.
    """
    write(net, folder / "in")
    loaded = read(folder / "in", jnp.float32)
    run = forward(loaded.network, train=False)
    ours = jax.jit(lambda v, x: run(v, x, None)[:2], compiler_options=QUICKLY)(loaded.variables, x)
    compare(ours, theirs(net, channels_first(x)), 1e-5, hidden, "float32")

    wide = x.astype(np.float64)
    with jax.enable_x64(True):
        exact = read(folder / "in", jnp.float64)

        def loss(params, x):
            variables = exact.variables._replace(params=params)
            features, logits, stats = forward(exact.network, train=True)(variables, x, None)
            return jnp.sin(logits).sum(), (features, logits, stats)

        def both(params, x):
            grads, (features, logits, stats) = jax.grad(loss, has_aux=True)(params, x)
            calm = forward(exact.network, train=False)(exact.variables, x, None)[:2]
            return calm, (features, logits), grads, stats

        calm, training, grads, stats = jax.jit(both, compiler_options=QUICKLY)(exact.variables.params, wide)
    net = net.double()
    compare(calm, theirs(net, channels_first(wide)), 1e-10, hidden, "evaluation")
    found = theirs(net.train(), channels_first(wide))
    compare(training, found, 1e-10, hidden, "training")
    found["logits"].sin().sum().backward()
    for parameter in net.parameters():
        parameter.data = parameter.grad
    write(net.eval(), folder / "gradients")
    with jax.enable_x64(True):
        wanted = read(folder / "gradients", jnp.float64).variables
    for ours, theirs_, tolerance in ((grads, wanted.params, 1e-9), (stats, wanted.stats, 1e-10)):
        flat = flatten(theirs_)
        assert flat.keys() == flatten(ours).keys()
        # A bias before a normalisation has a gradient of 0, and rounding: measured against the largest of all.
        least = max((float(np.abs(a).max()) for a in flat.values()), default=0.0)
        for path, value in flatten(ours).items():
            near(value, flat[path], tolerance, least, path)
    return loaded


def near(ours: Any, theirs: Any, tolerance: float, least: float, path: str) -> None:
    """As `close`, but for what is nought beside the largest of all arrays."""
    if np.abs(theirs).max() < 1e-12 * least:
        assert np.abs(ours).max() < 1e-12 * least, path
    else:
        close(ours, theirs, tolerance, path)


def compare(ours: tuple, theirs: dict, tolerance: float, hidden: tuple, mode: str) -> None:
    """Every feature and the logits."""
    found = {**ours[0], "logits": ours[1]}
    assert {*found} == {*theirs, *hidden}
    for name, wanted in theirs.items():
        close(found[name], wanted.detach().movedim(1, -1), tolerance, f"{name}, {mode}")


def hf_write(net: Any, path: Any) -> None:
    """As transformers saves."""
    net.save_pretrained(path)


def state_write(net: Any, path: Any) -> None:
    """As torchvision's files are made."""
    import torch

    torch.save(net.state_dict(), f"{path}.pth")


def written_as_read(net: Any, x: np.ndarray, folder: Any) -> None:
    """A network of transformers through jtl: the same bits in its file, and transformers' the same logits from it."""
    import transformers

    net.save_pretrained(folder / "in")
    save(folder / "out", load(folder / "in"))
    before, after = (load_file(folder / f / "model.safetensors") for f in ("in", "out"))
    same_bits(after, before)
    again, account = transformers.AutoModelForImageClassification.from_pretrained(
        folder / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    np.testing.assert_array_equal(
        again.eval()(channels_first(x)).logits.detach(), net(channels_first(x)).logits.detach()
    )
