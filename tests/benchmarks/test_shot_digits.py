"""The network of SHOT's experiments beside torch's layers, and the table of its results."""

import jax
import numpy as np
import pytest

from benchmarks import shot_digits
from benchmarks.method_tables import METHODS


def test_the_network_is_torchs_layers():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    net, x = shot_digits.network(), np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    made = net.init(jax.random.key(0), x)
    draw = np.random.default_rng(1)
    params, stats = jax.tree.map(lambda a: a + 0.03 * draw.normal(size=a.shape).astype(np.float32), made)
    ours = jax.jit(lambda x: net.apply(type(made)(params, stats), x, train=False)[0].output)(x)
    body, head = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), (params["backbone"], params["head"]))
    norm = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), stats["backbone"]["norm"])
    h = torch.tensor(x).permute(0, 3, 1, 2) * 2 - 1
    for name in ("conv1", "conv2"):
        h = F.conv2d(h, body[name]["kernel"].permute(3, 2, 0, 1), body[name]["bias"])
        h = F.relu(F.max_pool2d(h, 2))
    h = h.permute(0, 2, 3, 1).flatten(1) @ body["bottleneck"]["kernel"] + body["bottleneck"]["bias"]
    h = F.batch_norm(h, norm["mean"], norm["var"], body["norm"]["scale"], body["norm"]["bias"])
    weight = torch._weight_norm(head["direction"].T.contiguous(), head["length"][:, None], 0)
    np.testing.assert_allclose(ours, F.linear(h, weight, head["bias"]), rtol=1e-5, atol=1e-4)


def test_the_table_says_the_length_and_the_published_number():
    scores = {"clustering": 0.5, "accuracy": 90.0}, {"clustering": 0.9, "accuracy": 97.4}
    row = {"source": "mnist", "frame": 20, "epochs": [5, 30], "before": scores[0], "after": scores[1],
           "published": [79.7, 97.9], "seconds": [10, 20]}  # fmt: skip
    (line,) = METHODS["shot"]([row]).rows
    assert line == (
        "MNIST to USPS", "20", "5 of 30", "30 of 30", "90.0 (79.7)", "97.4 (97.9)", "-0.5", "0.500, 0.900", "30",
    )  # fmt: skip
