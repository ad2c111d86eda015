"""Any number of labels a row against torch and scikit-learn, some of them not known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones, data, evaluate, evaluation, finetune, network, tasks
from jtl.metrics.accumulate import total

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(size=(20, 3)).astype(np.float32)
TRUE = DRAW.integers(0, 2, (20, 3))
Y = np.where(DRAW.random((20, 3)) < 0.3, -1, TRUE)
KNOWN = Y >= 0


def test_loss_and_f1_are_of_the_known_labels_alone():
    torch = pytest.importorskip("torch")
    sk = pytest.importorskip("sklearn.metrics")
    task = tasks.multi_label(("a", "b", "c"), threshold=(0.5, 0.4, 0.7), positive_weights=[1.0, 2.0, 3.0])
    net = network(backbone=backbones.identity(), head=task.head)
    assert net.classes == ("a", "b", "c")
    variables = net.init(jax.random.key(0), jnp.zeros((1, 3)))
    head = {"out": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    variables = variables._replace(params={**variables.params, "head": head})
    rows = data.arrays(LOGITS, Y, batch_size=8, shuffle=False, ignore=-1)
    found = evaluate(evaluation(net, **task.supervision), variables, rows)
    weight = torch.tensor([1.0, 2.0, 3.0])
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(TRUE, dtype=torch.float32), pos_weight=weight, reduction="none"
    )
    np.testing.assert_allclose(found["loss"], each[torch.tensor(KNOWN)].mean(), rtol=1e-5)
    predicted = 1 / (1 + np.exp(-LOGITS)) >= np.array([0.5, 0.4, 0.7])
    wanted = [sk.f1_score(TRUE[k, i], predicted[k, i]) for i, k in enumerate(KNOWN.T)]
    np.testing.assert_allclose(found["f1/each"], wanted, rtol=1e-5)
    np.testing.assert_allclose(found["f1/macro"], np.mean(wanted), rtol=1e-5)
    assert task.decode(LOGITS[:3]) == [["abc"[i] for i in np.flatnonzero(row)] for row in predicted[:3]]
    assert tasks.multi_label(np.int64(3)).decode(LOGITS).tolist() == (LOGITS >= 0).tolist()


def test_an_unknown_label_has_no_gradient_and_weights_may_say_so_too():
    task = tasks.multi_label(3)
    net = network(backbone=backbones.identity(), head=task.head)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 3)))

    def slope(objective, **batch):
        def loss(params):
            return total(objective(params, variables.stats, {"x": LOGITS, **batch}, jax.random.key(0), 0)[0])

        return jax.grad(loss)(variables.params)

    by_label = slope(finetune(net, **task.supervision), y=Y)
    by_weight = slope(finetune(net, task.loss, metrics={}), y=TRUE, weights=KNOWN)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), by_label, by_weight)


def test_a_nan_logit_is_no_prediction():
    metric = tasks.multi_label(2).metrics["f1"]
    logits, y = np.array([[np.nan, 1.0], [1.0, np.nan]]), np.array([[1, 1], [0, -1]])
    found = metric.finish(metric.sums(logits, y, (y >= 0).astype(float)))
    np.testing.assert_array_equal(found["each"], [np.nan, 1])
    assert np.isnan(found["macro"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tasks.multi_label(("a", "a")), ValueError, "class 'a' is there 2 times"),
        (lambda: tasks.multi_label("ab"), TypeError, "the string 'ab'"),
        (lambda: tasks.multi_label(2, threshold=1.0), ValueError, r"threshold=1.0: .* in \(0, 1\)"),
        (lambda: tasks.multi_label(2, threshold=[0.5] * 3), ValueError, "one for each of 2 labels"),
        (
            lambda: tasks.multi_label(2).metrics["f1"].sums(jnp.zeros((4, 2)), np.zeros(4, int), None),
            ValueError,
            r"labels y of shape \(4,\) beside outputs of shape \(4, 2\): 2 a row",
        ),
    ],
)
def test_what_cannot_be_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
