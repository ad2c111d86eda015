"""RoTTA against a run of its steps in torch, one row after the other, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from class_lists import Lists
from nets import normed, top

from jtl.methods.adapt.test_time.rotta import rotta
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten

NET = network(backbone=normed(8), head=top(3))
DRAW = np.random.default_rng(0)
STREAM = np.concatenate([2 * DRAW.normal(size=(25, 5)) + 2 * DRAW.normal(size=5) for _ in range(2)]).astype(np.float32)
KEY = jax.random.key(1)
CAPACITY, EVERY, SHARE, MOMENTUM, RATE = 6, 4, 0.2, 0.7, 0.3


def halved(key, x):
    return 0.5 * x + 0.1


def made(**changed):
    numbers = {"capacity": CAPACITY, "every": EVERY, "share": SHARE, "momentum": MOMENTUM}
    return rotta(NET, halved, optax.sgd(RATE), **{**numbers, **changed})


@pytest.fixture(scope="module")
def variables():
    draw, start = np.random.default_rng(2), NET.init(jax.random.key(0), STREAM)
    stats = {"backbone": {"norm": {name: jnp.float32(draw.uniform(0.5, 2, 8)) for name in ("mean", "var")}}}
    return Variables(start.params, stats)


ADAPTING = made()
TRACES = []


@jax.jit
def step_of(state, batch):
    TRACES.append(len(batch["x"]))
    return ADAPTING.step(state, batch)


def run(variables, batches, masks=None, adapting=ADAPTING, step=step_of):
    state, logits = adapting.init(variables, KEY, {"x": batches[0]}), []
    for i, x in enumerate(batches):
        state, z = step(state, {"x": x} if masks is None else {"x": x, "mask": masks[i]})
        logits.append(np.asarray(z))
    return state, np.concatenate(logits)


class Reference:
    """The student and the teacher in torch, float64."""

    def __init__(self, torch, variables):
        self.torch, self.lists, self.count, self.updates, self.sizes = torch, Lists(CAPACITY, 3, (1, 1)), 0, 0, []
        self.weights = {k: torch.tensor(np.float64(a)) for k, a in flatten(variables.params).items()}
        r = variables.stats["backbone"]["norm"]
        self.nets = [
            {"scale": self.weights["backbone/norm/scale"].clone().requires_grad_(),
             "bias": self.weights["backbone/norm/bias"].clone().requires_grad_(),
             "mean": torch.tensor(np.float64(r["mean"])), "var": torch.tensor(np.float64(r["var"]))}
            for _ in range(2)
        ]  # fmt: skip

    def forward(self, net, x, memory):
        h = x @ self.weights["backbone/layer/kernel"]
        mean, var = net["mean"], net["var"]
        if memory:
            mean = (1 - SHARE) * mean + SHARE * h.mean(0)
            var = (1 - SHARE) * var + SHARE * h.var(0, unbiased=False)
            net["mean"], net["var"] = mean.detach(), var.detach()
        h = self.torch.relu((h - mean) / self.torch.sqrt(var + 1e-5) * net["scale"] + net["bias"])
        return h @ self.weights["head/out/kernel"] + self.weights["head/out/bias"]

    def step(self, x):
        torch, (student, teacher) = self.torch, self.nets
        with torch.no_grad():
            logits = self.forward(teacher, torch.tensor(np.float64(x)), False)
        h = torch.distributions.Categorical(logits=logits).entropy()
        for i in range(len(x)):
            self.lists.add(int(logits[i].argmax()), float(h[i]), self.count)
            self.count += 1
            if self.count % EVERY == 0:
                self.update(student, teacher)
        return logits.numpy()

    def update(self, student, teacher):
        torch, content = self.torch, self.lists.content()
        x = torch.tensor(np.float64(STREAM[[number for number, _, _ in content]]))
        ages = torch.tensor([age / CAPACITY for _, _, age in content], dtype=torch.float64)
        q = self.forward(teacher, x, True).softmax(1).detach()
        p = self.forward(student, 0.5 * x + 0.1, True).log_softmax(1)
        loss = (torch.exp(-ages) / (1 + torch.exp(-ages)) * -(q * p).sum(1)).mean()
        grads = torch.autograd.grad(loss, [student["scale"], student["bias"]])
        with torch.no_grad():
            for name, g in zip(("scale", "bias"), grads, strict=True):
                student[name] -= RATE * g
                teacher[name] *= MOMENTUM
                teacher[name] += (1 - MOMENTUM) * student[name]
        self.updates += 1
        self.sizes.append(len(content))


@pytest.mark.parametrize("size", [10, 2])
def test_the_stream_is_that_of_torch(variables, size):
    """Batches of two or three updates, and one update in two batches."""
    torch = pytest.importorskip("torch")
    reference, batches = Reference(torch, variables), np.split(STREAM, 50 // size)
    expected = np.concatenate([reference.step(x) for x in batches])
    TRACES.clear()
    state, found = run(variables, batches)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    own, (student, teacher) = state.variables.stats["rotta"], reference.nets
    for norm, running, expected in (
        (state.variables.params["backbone"]["norm"], state.variables.stats["backbone"]["norm"], student),
        (own["teacher"]["backbone"]["norm"], own["running"]["backbone"]["norm"], teacher),
    ):
        for name, a in {**norm, **running}.items():
            np.testing.assert_allclose(a, expected[name].detach(), atol=1e-4, err_msg=name)
    there = np.asarray(own["slots"].label) >= 0
    numbers = [number for number, _, _ in reference.lists.content()]
    np.testing.assert_array_equal(sorted(map(tuple, np.asarray(own["x"])[there])), sorted(map(tuple, STREAM[numbers])))
    assert (reference.updates, min(reference.sizes) < CAPACITY, max(reference.sizes)) == (12, True, CAPACITY)
    assert (int(state.step), TRACES) == (50 // size, [size])
    assert np.abs(found - np.asarray(NET.apply(variables, STREAM, train=False)[0].output)).max() > 0.1


def test_the_size_of_a_batch_matters_only_for_when_it_is_predicted(variables):
    """With a teacher that stays as it is, the student learns the same from any batches; only norms are moved."""
    fixed = made(momentum=1.0, share=0.0)
    step = jax.jit(fixed.step)
    one, two = (run(variables, np.split(STREAM, parts), None, fixed, step) for parts in (25, 5))
    np.testing.assert_allclose(one[1], two[1], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[0].variables, two[0].variables)
    before, after = flatten(variables.params), flatten(one[0].variables.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {"backbone/norm/scale", "backbone/norm/bias"}


def test_masked_and_broken_rows_are_as_if_they_had_not_come(variables):
    masks = np.tile(np.array([1, 1, 0, 1, 1, 0, 1], bool), (5, 2))
    rows = np.full((5, 14, 5), np.nan, np.float32)
    rows[masks] = STREAM
    plain, expected = run(variables, np.split(STREAM, 5))
    state, found = run(variables, rows, masks)
    np.testing.assert_allclose(found[masks.reshape(-1)], expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.variables, plain.variables)
    broken, _ = run(variables, rows, np.ones_like(masks))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), broken.variables, plain.variables)
    none, found = run(variables, rows, np.zeros_like(masks))
    jax.tree.map(np.testing.assert_array_equal, none.variables.params, variables.params)
    assert int((none.variables.stats["rotta"]["slots"].label >= 0).sum()) == 0
    assert np.isfinite(found).all()


def test_a_reset_forgets_the_memory_and_the_teacher(variables):
    start = ADAPTING.init(variables, KEY, {"x": STREAM[:10]})
    state, _ = step_of(start, {"x": STREAM[:10]})
    again = ADAPTING.reset(state)
    jax.tree.map(np.testing.assert_array_equal, (again.variables, again.opt), (start.variables, start.opt))
    assert int(again.step) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"capacity": 0}, "capacity=0"), ({"every": 0}, "every=0"), ({"share": 2}, "share=2"),
     ({"momentum": -1}, "momentum=-1"), ({"timeliness": -1}, "timeliness=-1"), ({"certainty": -1}, "certainty=-1")],
)  # fmt: skip
def test_numbers_out_of_range_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        made(**changed)
