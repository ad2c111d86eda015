"""AdaLoRA: its update against NumPy, its term against the formula, and its budget against PEFT's allocator."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, top
from optax import contrib
from small_vit import adapter_of, base, randomised, runs

from jtl import peft
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.params import flatten, select, unflatten
from jtl.peft.lycoris_files import read_factor, written_factor
from jtl.train import make_step

WHERE = (r"block\d/attention/query", "block2/mlp/down", "embed")
PATHS = ("block1/attention/query", "block2/mlp/down", "embed")


def test_starts_as_the_base_and_merges_to_the_formula():
    """W + c U diag(s) V in float64, with the scale of the first rank where the rank is lower, and in a convolution."""
    net, variables = base()
    adapter = peft.adalora(4, WHERE, alpha=6, ranks={".*/down": 3})
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    here, there, changed = runs(adapted), runs(net), randomised(more)
    start, found, merged = there(variables), here(changed), peft.merge(changed, adapter)
    np.testing.assert_allclose(here(more), start, rtol=0, atol=1e-5)
    np.testing.assert_allclose(there(merged), found, rtol=0, atol=1e-4 * np.abs(found).max())
    assert np.abs(found - start).max() > 1e-2
    for path in PATHS:
        kernel = np.asarray(flatten(variables.params)[f"backbone/{path}/kernel"], np.float64)
        part = adapter_of(changed, path)
        assert part["s"].shape == (3 if path.endswith("down") else 4,)
        update = 6 / (4 + 1e-5) * np.einsum("...ir,r,ro->...io", part["u"], part["s"], part["v"])
        after = flatten(merged.params)[f"backbone/{path}/kernel"]
        np.testing.assert_allclose(after, kernel + update, rtol=1e-5, atol=1e-5)


def test_a_convolutions_factors_are_pefts():
    """PEFT's update is B (A ⊙ E), [out, in · height · width], in the shape of torch's kernel."""
    draw, kernel = np.random.default_rng(0), np.zeros((2, 3, 4, 5))
    a, e, b = (draw.normal(size=shape) for shape in ((7, 4 * 2 * 3), (7, 1), (5, 7)))
    u, v = (read_factor(leaf, value, kernel, False, "file") for leaf, value in (("u", a), ("v", b)))
    wanted = (b @ (a * e)).reshape(5, 4, 2, 3).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(np.einsum("hwir,r,ro->hwio", u, e[:, 0], v), wanted, rtol=1e-12)
    for leaf, value, given in (("u", u, a), ("v", v, b)):
        np.testing.assert_array_equal(written_factor(leaf, value, False), given)


def test_directions_of_no_singular_value_are_pruned():
    """The network computes the same, merges and unmerges; a module may be left with rank 0."""
    net, variables = base()
    adapter = peft.adalora(4, WHERE, alpha=6)
    adapted, more = peft.attach(net, variables, adapter, jax.random.key(1))
    with pytest.raises(ValueError, match="every singular value is 0, as before training"):
        peft.pruned(more, adapter)
    flat, off = flatten(randomised(more).params), {PATHS[0]: [1], PATHS[1]: [0, 1, 2, 3], PATHS[2]: [0, 3]}
    for path, gone in off.items():
        flat[f"backbone/adapter/{path}/s"][gone] = 0
    changed = more._replace(params=unflatten(flat))
    few, small = peft.pruned(changed, adapter)
    assert [adapter_of(few, path)["u"].shape[-1] for path in PATHS] == [3, 0, 2]
    here = runs(adapted)
    np.testing.assert_allclose(here(few), here(changed), rtol=1e-5, atol=1e-4)
    quantised = peft.pruned(peft.quantise(adapted, changed, WHERE[1:2], "int8")[1], adapter)[0]
    jax.tree.map(
        np.testing.assert_array_equal, quantised.params["backbone"]["adapter"], few.params["backbone"]["adapter"]
    )
    merged, whole = peft.merge(few, small), peft.merge(changed, adapter)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), merged, whole)
    back = flatten(peft.unmerge(merged, small, few.params["backbone"]["adapter"]).params)
    for path, leaf in flatten(few.params).items():
        np.testing.assert_allclose(back[path], leaf, rtol=0, atol=1e-5)
    again = flatten(peft.attach(net, variables, small, jax.random.key(1))[1].params)
    assert {path: leaf.shape for path, leaf in again.items()} == {
        p: np.shape(a) for p, a in flatten(few.params).items()
    }
    with pytest.raises(ValueError, match=r"pruned takes the jtl\.peft\.adalora"):
        peft.pruned(changed, peft.lora(2, WHERE))


ADAPTER = peft.adalora(4, (r"layer\d",))
ALONE = select("backbone/adapter/.*")


@pytest.fixture(scope="module")
def small():
    net = network(backbone=dense(6, 5), head=top(3))
    return peft.attach(net, net.init(jax.random.key(0), batch()["x"]), ADAPTER, jax.random.key(1))


def test_the_term_is_the_formula_of_the_paper_and_the_mean_of_its_norms(small):
    """And its gradient is finite where the factors are orthogonal."""
    changed, squares = randomised(small[1]), []
    for path in ("layer0", "layer1"):
        part = adapter_of(changed, path)
        squares += [((f.T @ f - np.eye(4)) ** 2).sum() for f in (part["u"], part["v"].T)]
    mean, total = peft.orthogonality(0.3), peft.orthogonality(lambda step: 0.1 * step, squared=True, name="squares")

    @jax.jit
    def values(params):
        return [term(params, {}, {}, None, 2)[0][name] for term, name in ((mean, "orthogonality"), (total, "squares"))]

    np.testing.assert_allclose(
        values(changed.params), [0.3 * np.sqrt(squares).mean(), 0.2 * np.sum(squares)], rtol=1e-5
    )
    straight = {"adapter": {"m": {"u": jnp.eye(5, 3), "s": jnp.zeros(3), "v": jnp.eye(3, 4)}}}
    slopes = jax.jit(jax.grad(lambda p: sum(values(p))))(straight)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), slopes)


@pytest.mark.parametrize(("final", "every", "warmup"), [(2, 1, 1), (0, 3, 2)])
@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_the_budget_chooses_as_pefts_allocator(final, every, warmup):
    """On PEFT's gradients, by SGD in float64: at every step the same averages, directions and parameters, to 1e-12."""
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    theirs = pytest.importorskip("peft")
    torch.manual_seed(0)

    class Net(torch.nn.Sequential):
        def forward(self, x, y):  # PEFT adds its term to such a loss
            return SimpleNamespace(loss=((super().forward(x) - y) ** 2).mean())

    net = Net(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 5), torch.nn.Linear(5, 4))
    options = {
        "init_r": 4,
        "target_r": 2,
        "total_step": 12,
        "tinit": warmup,
        "tfinal": final,
        "deltaT": every,
        "beta2": 0.7,
    }
    config = theirs.AdaLoraConfig(target_modules=["0", "2", "3"], lora_alpha=8, **options)
    tuned = theirs.get_peft_model(net, config).double()
    pairs, names = {}, {}
    for name, value in tuned.named_parameters():
        if "lora_" in name:
            value.data = 0.5 * torch.randn(value.shape, dtype=torch.float64)
            module, leaf = name.split(".")[-3], {"lora_A": "u", "lora_E": "s", "lora_B": "v"}[name.split(".")[-2]]
            pairs[f"adapter/m{module}/{leaf}"] = value
            names[id(value)] = name.removeprefix("base_model.model.")

    def arrays(of):
        def ours(path, value):
            return jnp.asarray(
                np.array(value.detach()).reshape(-1) if path.endswith("/s") else np.array(value.detach()).T
            )

        found = {path: ours(path, of(value)) for path, value in pairs.items()}
        return unflatten(found | {"head": jnp.ones(3)})  # and a parameter of another kind

    sgd = torch.optim.SGD(pairs.values(), 0.02)
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    with jax.enable_x64(True):
        tx = peft.budgeted(optax.sgd(0.02), 2, 12, warmup=warmup, final=final, every=every, beta2=0.7)
        params, update, left = arrays(lambda p: p), jax.jit(tx.update), []
        state = tx.init(params)
        for step in range(1, 15):  # two more than there are
            sgd.zero_grad()
            loss = tuned.base_model(x, y).loss
            term = peft.orthogonality(0.5)(params, {}, {}, None, 0)[0]["orthogonality"]
            np.testing.assert_allclose(term, (loss - tuned.base_model.model(x, y).loss).item(), rtol=1e-10)
            loss.backward()
            grads = arrays(lambda p: p.grad)
            sgd.step()
            tuned.base_model.update_and_allocate(step)
            moves, state = update(grads, state, params)
            params = optax.apply_updates(params, moves)
            for path, leaf in flatten(arrays(lambda p: p)["adapter"]).items():
                np.testing.assert_allclose(
                    flatten(params["adapter"])[path], leaf, rtol=0, atol=1e-12, err_msg=f"{step} {path}"
                )
            allocator = tuned.base_model.rankallocator
            averages = (state.sensitivity, allocator.exp_avg_ipt), (state.uncertainty, allocator.exp_avg_unc)
            for ours, means in averages if step < 12 - final else ():
                for path, leaf in flatten(arrays(lambda p, means=means: means[names[id(p)]])["adapter"]).items():
                    np.testing.assert_allclose(flatten(ours["adapter"])[path], leaf, rtol=0, atol=1e-12)
            chosen = config.rank_pattern
            for path, kept in flatten(state.kept).items() if chosen else ():
                np.testing.assert_array_equal(kept, chosen[f"{path.split('/')[1][1:]}.lora_E.default"])
            left.append(sum(int((leaf != 0).sum()) for path, leaf in flatten(params).items() if path.endswith("/s")))
        np.testing.assert_allclose(params["head"], 1 - 14 * 0.02)
    assert left[0] == 12
    assert left[-1] == 6
    assert len(set(left)) > 2 if every == 1 else left[0] == left[1] == left[3]


def test_a_step_trains_to_the_budget(small):
    """Over microbatches; directions of all modules compete, the head is trained, and the base stays bit for bit."""
    net, variables = small
    tx, mask = peft.budgeted(optax.adam(3e-2), 2, 6), select("backbone/adapter/.*", "head/.*")
    step = make_step(finetune(net, terms=[peft.orthogonality(0.1)]), tx, trainable=mask, microbatch=2)
    state, run = step.init(variables, jax.random.key(2)), jax.jit(step)
    for _ in range(6):
        state, metrics = run(state, batch())
    after = flatten(state.params)
    kept = {path: int((leaf != 0).sum()) for path, leaf in after.items() if path.endswith("/s")}
    assert sum(kept.values()) == 4
    assert np.isfinite(metrics["loss"])
    for path, leaf in flatten(variables.params).items():
        assert np.array_equal(leaf, after[path]) == (path.startswith("backbone/layer")), path
    few, adapter = peft.pruned(variables._replace(params=state.params), ADAPTER)
    assert sum(flatten(few.params)[path].shape[0] for path in kept) == 4
    assert peft.summary(few).startswith(f"{sum(n > 0 for n in kept.values())} adapted" if min(kept.values()) else "2")
    assert adapter.config["kept"].keys() == {"layer0", "layer1"}


def test_sharpness_aware_steps_are_those_of_the_optimizer_alone(small):
    """Before the budget falls; `optax.contrib.sam` takes the function of the gradient and no other argument."""
    net, variables = small
    sam = contrib.sam(optax.sgd(0.1), contrib.normalize(), sync_period=2, opaque_mode=True)
    after = []
    for tx in (peft.budgeted(sam, 2, 6, warmup=3), sam):
        step = make_step(finetune(net), tx, trainable=select("backbone/adapter/.*", "head/.*"))
        after.append(jax.jit(step)(step.init(variables, jax.random.key(2)), batch())[0].params)
    jax.tree.map(np.testing.assert_array_equal, *after)


def test_a_module_without_directions_is_trained_along():
    """As in a network that was pruned: rank 0, in a convolution, beside a module that competes alone."""
    shapes = {"m": {"u": (5, 4), "s": (4,), "v": (4, 3)}, "n": {"u": (2, 2, 5, 0), "s": (0,), "v": (0, 3)}}
    draw, term = np.random.default_rng(0), peft.orthogonality(1.0, squared=True)
    params = {name: {leaf: draw.normal(size=size) for leaf, size in of.items()} for name, of in shapes.items()}
    wanted = sum(((f.T @ f - np.eye(4)) ** 2).sum() for f in (params["m"]["u"], params["m"]["v"].T))
    params, tx = {"adapter": jax.tree.map(jnp.asarray, params)}, peft.budgeted(optax.sgd(0.1), 1, 2)

    @jax.jit
    def run(params):
        state, value = tx.init(params), term(params, {}, {}, None, 0)[0]["orthogonality"]
        for _ in range(2):
            _, state = tx.update(params, state, params)
        return value, state.kept

    value, kept = run(params)
    apart = term(jax.tree.map(np.asarray, params), {}, {}, None, 0)[0]["orthogonality"]  # and of NumPy's arrays
    np.testing.assert_allclose([value, apart], wanted, rtol=1e-5)
    assert {path: int(leaf.sum()) for path, leaf in flatten(kept).items()} == {"adapter/m/s": 2, "adapter/n/s": 0}


def test_what_would_be_wrong_raises(small):
    _, variables = small
    with pytest.raises(ValueError, match="final=9, total_steps=10: the budget would be spent at step 1"):
        peft.budgeted(optax.sgd(1.0), 2, 10, final=9)
    with pytest.raises(ValueError, match=r"ranks={'layer1': 5}: give ranks of at most rank=4"):
        peft.adalora(4, (r"layer\d",), ranks={"layer0": 4, "layer1": 5})
    with pytest.raises(ValueError, match="warmup=4, final=6, total_steps=10: there is no step between"):
        peft.budgeted(optax.sgd(1.0), 2, 10, warmup=4, final=6)
    tx = peft.budgeted(optax.sgd(1.0), 5, 10)
    with pytest.raises(ValueError, match="target=5: the mean rank of the 2 modules is 4"):
        tx.init(variables.params["backbone"])
    with pytest.raises(ValueError, match=r"there is no jtl\.peft\.adalora among the parameters"):
        tx.init(variables.params["head"])
    flat = flatten(variables.params)
    with pytest.raises(ValueError, match="'backbone/adapter/layer0/u' is not among the parameters"):
        tx.init(unflatten({path: leaf for path, leaf in flat.items() if not path.endswith("/u")}))
    bare, dropping = network(backbone=dense(6, 5), head=top(3)), peft.adalora(2, ("layer0",), dropout=0.1)
    bare, more = peft.attach(bare, bare.init(jax.random.key(0), batch()["x"]), dropping, jax.random.key(1))
    with pytest.raises(ValueError, match=r"AdaLoRA at 'layer0' has dropout=0\.1: give apply"):
        bare.apply(more, batch()["x"], train=True)
    with pytest.raises(ValueError, match="is a convolution, for which AdaLoRA has no dropout"):
        peft.attach(*base(), peft.adalora(2, ("embed",), dropout=0.1), jax.random.key(0))
