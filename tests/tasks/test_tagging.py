"""Tagging against torch and transformers."""

import jax
import numpy as np
import pytest

from jtl import Variables, backbones, finetune, heads, load, network, tasks
from jtl.metrics.accumulate import total
from jtl.reads import whole

TAGS = ("O", "B-x", "I-x")


def test_loss_is_transformers_and_its_gradient_torchs(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from text_references import hf_text, texts, to_torch

    theirs = hf_text("bert", "ForTokenClassification", classes=3)
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path, unused=("classifier.*",))
    state = {name: value.detach().numpy() for name, value in theirs.classifier.named_parameters()}
    task, x = tasks.tagging(TAGS), texts("bert")
    net = network(backbone=loaded.backbone, head=heads.per_position(3, reads=whole("last")))
    params = {**loaded.variables.params, "head": {"out": {"kernel": state["weight"].T, "bias": state["bias"]}}}
    y = np.where(x["mask"], np.random.default_rng(0).integers(0, 3, x["mask"].shape), -100)
    y[:, 0] = -100
    out = theirs(**to_torch(x), labels=torch.tensor(y))
    out.loss.backward()
    objective = finetune(net, **task.supervision)
    batch = {"x": x, "y": y}

    def loss(head):
        value, _ = objective({**params, "head": head}, {}, batch, jax.random.key(0), 0)
        return total(value)

    evaluated = net.apply(Variables(params, {}), x, train=False)[0].output
    np.testing.assert_allclose(evaluated, out.logits.detach(), atol=1e-5)
    value, grads = jax.value_and_grad(loss)(params["head"])
    np.testing.assert_allclose(value, out.loss.detach(), rtol=1e-5)
    np.testing.assert_allclose(grads["out"]["kernel"], theirs.classifier.weight.grad.T, atol=1e-5)
    np.testing.assert_allclose(grads["out"]["bias"], theirs.classifier.bias.grad, atol=1e-6)


def test_tags_stand_by_the_number_of_their_word():
    output = np.eye(3)[np.array([[0, 1, 2, 2, 0], [0, 0, 1, 0, 0]])]
    words = np.array([[-1, 0, -1, 2, -1], [-1, -1, 0, -1, -1]])
    # Word 1 of the first sentence has no token.
    assert tasks.tagging(TAGS).decode(output, words) == [["B-x", "O", "I-x"], ["B-x"]]


def test_tags_that_mark_no_entities_have_accuracy_alone():
    assert list(tasks.tagging(("NOUN", "VERB")).metrics) == ["accuracy"]


def test_labels_are_matched_by_the_names_of_the_tags():
    assert network(backbone=backbones.mlp((2,)), head=tasks.tagging(TAGS).head).classes == TAGS
    with pytest.raises(ValueError, match="class 'B-x' is there 2 times"):
        tasks.tagging((*TAGS, "B-x"))
    assert "entity" in tasks.tagging(("O", "I-x")).metrics
    with pytest.raises(TypeError, match="the string 'OBI'"):
        tasks.tagging("OBI")
