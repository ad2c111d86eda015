"""Language modelling against transformers."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jtl import Variables, evaluation, heads, load, model, network, tasks
from jtl.metrics.accumulate import total
from jtl.preprocess.next_tokens import next_tokens
from jtl.reads import whole


def test_loss_and_perplexity_are_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch_resnets import randomise

    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=12, n_layer=2, n_head=3)
    theirs = randomise(transformers.GPT2LMHeadModel(config)).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    words = loaded.variables.params["backbone"]["words"]["embedding"]
    net = network(backbone=loaded.backbone, head=heads.per_position(20, bias=False, reads=whole("last")))
    params = {**loaded.variables.params, "head": {"out": {"kernel": words.T}}}
    mask = np.arange(8)[None] < np.array([[8], [5], [2]])
    ids = np.where(mask, np.random.default_rng(0).integers(0, 20, mask.shape), 0).astype(np.int32)
    with torch.no_grad():
        labels = torch.tensor(np.where(mask, ids, -100), dtype=torch.int64)
        out = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int)), labels=labels)
    objective = evaluation(net, **tasks.causal_lm(20).supervision)
    batch = {"x": {"ids": ids, "mask": mask}, "y": next_tokens(ids, mask)}
    value, aux = objective(params, {}, batch, None, 0)
    np.testing.assert_allclose(total(value), out.loss, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["perplexity"].value, np.exp(float(out.loss)), rtol=1e-5)


def test_the_next_token_follows_the_last_on_either_side():
    output = np.eye(4)[np.array([[0, 1, 2, 3], [0, 1, 2, 3]])]
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    assert tasks.causal_lm(4).decode(output, mask).tolist() == [1, 3]


class Tied(nn.Module):
    """A backbone whose output weights are its embeddings."""

    @nn.compact
    def __call__(self, x, train: bool):
        words = nn.Embed(6, 4, name="words")
        last = words(x["ids"])
        return {"last": last, "pooled": last[:, -1], "logits": words.attend(last)}


def test_a_backbone_may_compute_its_own_logits(key):
    x = {"ids": np.array([[1, 2, 3]]), "mask": np.ones((1, 3), bool)}
    net = network(backbone=model.from_linen(Tied()), head=tasks.causal_lm(None).head)
    variables = net.init(key, x)
    assert list(variables.params["backbone"]) == ["words"]
    words = variables.params["backbone"]["words"]["embedding"]
    out, _ = net.apply(Variables(variables.params, {}), x, train=False)
    np.testing.assert_allclose(out.output, words[x["ids"]] @ words.T, rtol=1e-5)
    assert not jax.tree.leaves(variables.params.get("head", {}))
