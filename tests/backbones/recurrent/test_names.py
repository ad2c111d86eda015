"""LSTM and GRU against torch's on randomised weights and packed texts of several lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading import close, renamed, same_bits
from running import forward

from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.weights.formats.errors import WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")

from torch_resnets import randomise

# (width, hidden, layers, both directions, classes): two sizes, one odd.
SIZES = {"even": (6, 4, 1, False, 2), "odd": (5, 7, 2, True, 3)}
CASES = [(cell, size) for cell in ("lstm", "gru") for size in SIZES]
LENGTHS = (7, 3, 1)
VOCABULARY = 20


def made(cell, size):
    """Embedding, recurrent layers and a linear layer, by their usual names."""
    width, hidden, layers, both, classes = SIZES[size]
    net = torch.nn.Module()
    net.embedding = torch.nn.Embedding(VOCABULARY, width)
    kind = torch.nn.LSTM if cell == "lstm" else torch.nn.GRU
    net.rnn = kind(width, hidden, layers, batch_first=True, bidirectional=both)
    net.fc = torch.nn.Linear(hidden * (1 + both), classes)
    arch = {"model_type": "recurrent", "cell": cell, "vocab_size": VOCABULARY, "embedding_size": width}
    return randomise(net), arch | {"hidden_size": hidden, "num_layers": layers, "bidirectional": both}


def texts():
    draw = np.random.default_rng(0)
    mask = np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]
    return {"ids": draw.integers(0, VOCABULARY, mask.shape).astype(np.int32), "mask": mask}


def references(net, x):
    """Logits and features of torch on packed texts: outputs padded with zeros, states at each text's end."""
    words = net.embedding(torch.tensor(np.asarray(x["ids"], np.int64)))
    lengths = torch.tensor(LENGTHS)
    packed = torch.nn.utils.rnn.pack_padded_sequence(words, lengths, batch_first=True)
    last, ends = net.rnn(packed)
    last, _ = torch.nn.utils.rnn.pad_packed_sequence(last, batch_first=True)
    ends = ends[0] if isinstance(ends, tuple) else ends
    directions = 2 if net.rnn.bidirectional else 1
    pooled = torch.cat(list(ends[-directions:]), 1)
    found = {"last": last, "mean": last.sum(1) / lengths[:, None], "pooled": pooled}
    return net.fc(pooled), found | {f"stage{net.rnn.num_layers}": last}


def compare(features, logits, theirs, wanted, tolerance):
    # What a layer below the last gives out, torch does not tell: the last one's parity stands for it.
    assert set(wanted) <= set(features) <= set(wanted) | {"stage1"}
    for name, value in wanted.items():
        close(features[name], value.detach(), tolerance, name)
    close(logits, theirs.detach(), tolerance, "logits")


@pytest.mark.parametrize(("cell", "size"), CASES)
def test_is_torchs_network(cell, size, tmp_path):
    """Features and logits to 1e-5 in float32; to 1e-10 in float64, training, with gradients to 1e-9; names back."""
    net, arch = made(cell, size)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    loaded, x = load(tmp_path / "net.pt", arch=arch), texts()
    assert loaded.naming == "torch"
    same_bits(renamed(loaded, "torch"), {name: a.numpy() for name, a in net.state_dict().items()})
    run = forward(loaded.network, train=False)
    features, logits, _ = jax.jit(lambda v: run(v, x, None))(loaded.variables)
    compare(features, logits, *references(net, x), 1e-5)
    torch.save(net.double().state_dict(), tmp_path / "net.pt")
    with jax.enable_x64(True):
        exact = load(tmp_path / "net.pt", arch=arch, dtype=jnp.float64)

        def loss(params):
            train = forward(exact.network, train=True)
            features, logits, _ = train(exact.variables._replace(params=params), x, None)
            return jnp.sin(logits).sum() + jnp.sin(features["last"]).sum(), (features, logits)

        grads, (features, logits) = jax.jit(jax.grad(loss, has_aux=True))(exact.variables.params)
    theirs, wanted = references(net.train(), x)
    compare(features, logits, theirs, wanted, 1e-10)
    (theirs.sin().sum() + wanted["last"].sin().sum()).backward()
    torch.save({name: p.grad for name, p in net.named_parameters()}, tmp_path / "net.pt")
    with jax.enable_x64(True):
        expected = flatten(load(tmp_path / "net.pt", arch=arch, dtype=jnp.float64).variables.params)
    for path, ours in flatten(grads).items():
        # Sums over tokens in another order.
        np.testing.assert_allclose(ours, expected[path], rtol=1e-9, atol=1e-12, err_msg=path)


def test_other_names_and_another_direction(tmp_path):
    """The usual attributes are read whatever they are called; a direction too many is no secret."""
    net, arch = made("gru", "odd")
    held = net.state_dict()
    words = {"embedding": "emb", "rnn": "gru", "fc": "classifier"}
    torch.save({f"{words[n.partition('.')[0]]}.{n.partition('.')[2]}": a for n, a in held.items()}, tmp_path / "a.pt")
    same_bits(renamed(load(tmp_path / "a.pt", arch=arch), "torch"), {name: a.numpy() for name, a in held.items()})
    with pytest.raises(WeightNameError, match=r"gru.weight_ih_l0_reverse"):
        load(tmp_path / "a.pt", arch={**arch, "bidirectional": False}, classes=3, reinit=("head/.*",))
