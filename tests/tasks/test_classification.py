"""Classification against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import dense

import jtl
from jtl import tasks


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs(smoothing):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    logits, y = draw.normal(size=(5, 4)).astype(np.float32), draw.integers(0, 4, 5)
    found = tasks.classification(4, smoothing=smoothing).loss(jnp.asarray(logits), y)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(y), reduction="none", label_smoothing=smoothing
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-5)


def test_classes_are_decoded_to_names_or_numbers():
    output = np.array([[0.1, 2.0], [3.0, -1.0]])
    assert tasks.classification(("cat", "dog")).decode(output) == ["dog", "cat"]
    assert tasks.classification(2).decode(output).tolist() == [1, 0]
    assert tasks.classification(np.int64(2)).decode(output).tolist() == [1, 0]


def test_labels_are_matched_by_the_names_of_the_task():
    """Data of the classes ant and cat, all cats: a network that always says cat is always right."""
    task = tasks.classification(("cat", "ant"))
    net = jtl.network(backbone=dense(4), head=task.head)
    assert net.classes == ("cat", "ant")
    variables = net.init(jax.random.key(0), jnp.zeros((1, 2)))
    always = {"out": {"kernel": jnp.zeros((4, 2)), "bias": jnp.array([5.0, 0.0])}}
    variables = variables._replace(params={**variables.params, "head": always})
    x, y = np.zeros((4, 2), np.float32), np.ones(4, int)
    data = jtl.data.arrays(x, y, classes=("ant", "cat"), batch_size=4, shuffle=False)
    assert jtl.evaluate(jtl.evaluation(net, **task.supervision), variables, data)["accuracy"] == 1
    two = jtl.network(backbone=dense(4), a=task.head, b=tasks.classification(3).head)
    assert two.classes is None


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (("a", "b", "a"), ValueError, "class 'a' is there 2 times"),
        ("abc", TypeError, "classes is the string 'abc'"),
        ((), ValueError, "classes=0"),
    ],
)
def test_names_that_are_none_are_refused(classes, error, message):
    with pytest.raises(error, match=message):
        tasks.classification(classes)
