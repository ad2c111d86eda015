"""Writes a network by `jtl.save`, killed while it writes, and reads what is there."""

import json
import os
import signal
import sys
from pathlib import Path

CONFIG = {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
CONFIG |= {"intermediate_size": 20, "image_size": 8, "patch_size": 4}


def write(folder: Path, value: int, event: int | None) -> None:
    """Saves a network whose numbers are all `value`; is killed before its `event`-th file event."""
    from benchmarks.injected.trials import begin

    begin(folder.with_name(f"{folder.name}.log"), 1, folder.parent.parent / "compiled")
    import jax
    import jax.numpy as jnp
    import numpy as np
    from safetensors.numpy import save_file

    import jtl

    body = jtl.backbones.vit(jtl.backbones.Size(12, 1, 3, 20), image=8, patch=4)
    net = jtl.network(backbone=body, head=jtl.heads.linear(2))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))).params
    source = folder.with_name(f"{folder.name}.source{value}")
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIG | {"id2label": {"0": f"a{value}", "1": f"b{value}"}}))
    flat = {path: np.full(leaf.shape, value, np.float32) for path, leaf in jtl.flatten(shapes).items()}
    save_file(flat, source / "model.safetensors")
    loaded = jtl.load(source)
    left = [event or 0]

    def audit(name: str, args: tuple) -> None:
        names = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile")
        if name in names and str(folder.parent) in str(args[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    jtl.save(folder, loaded, format="hf")


def look(folder: Path) -> str:
    """Returns the value that all numbers and names of a save have, or a description of what is wrong."""
    from safetensors.numpy import load_file

    try:
        values = {float(v) for leaf in load_file(folder / "model.safetensors").values() for v in leaf.ravel()}
        labels = json.loads((folder / "config.json").read_text())["id2label"]
    except (OSError, ValueError, KeyError) as error:
        return repr(error)
    if len(values) != 1 or labels != {"0": f"a{next(iter(values)):g}", "1": f"b{next(iter(values)):g}"}:
        return f"a mix: {values}, {labels}"
    return f"{values.pop():g}"
