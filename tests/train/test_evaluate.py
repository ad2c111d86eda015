"""Evaluation: one exact mean over a data set, however it is cut."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jtl.data.arrays import arrays
from jtl.data.lengths import by_length
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.train import Validation, evaluate, evaluator, fsdp, make_step, mesh
from jtl.train.parallel.sharding import state_sharding
from jtl.train.state import State
from jtl.typing import Aux

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(37, 5)).astype(np.float32), RNG.normal(size=37).astype(np.float32)
PARAMS = {"head": {"kernel": jnp.asarray(RNG.normal(size=5).astype(np.float32))}}


def objective(params, stats, batch, key, step):
    out = batch["x"] @ params["head"]["kernel"]
    error = jnp.abs(out - batch["y"])
    terms = {"square": mean(error**2, batch["mask"]), "prior": mean(jnp.ones(()) * 0.25)}
    return terms, Aux(stats, {"error": mean(error, batch["mask"])})


class Cut:
    """The 37 rows in batches of n, the last one padded with rubbish that the mask leaves out."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return -(-37 // self.n)

    def __getitem__(self, i):
        rows = np.arange(i * self.n, (i + 1) * self.n)
        pad = rows >= 37
        x, y = X[rows % 37].copy(), Y[rows % 37].copy()
        x[pad] = np.nan
        return {"x": x, "y": y, "mask": ~pad}


def expected():
    error = X.astype(np.float64) @ np.asarray(PARAMS["head"]["kernel"], np.float64) - Y
    return {"square": (error**2).mean(), "prior": 0.25, "error": np.abs(error).mean()}


@pytest.mark.parametrize("n", [8, 16, 40])
@pytest.mark.parametrize("devices", [1, 8])
def test_every_cut_gives_the_mean_over_all_rows(n, devices):
    found = evaluate(objective, Variables(PARAMS, {}), Cut(n), mesh=mesh(devices=jax.devices()[:devices]))
    want = expected()
    # 37 float32 errors of size 1 are added up: a few times 6e-8 relative. A mean of batch means is off by 1e-2.
    assert found == pytest.approx({"loss": want["square"] + 0.25, **want}, rel=1e-6)


def test_without_a_row_that_counts_means_are_zero():
    class Masked(Cut):
        def __getitem__(self, i):
            return super().__getitem__(i) | {"mask": np.zeros(self.n, bool)}

    found = evaluate(objective, Variables(PARAMS, {}), Masked(40))
    assert found == {"loss": 0.25, "square": 0.0, "prior": 0.25, "error": 0.0}


def test_a_score_is_the_watched_number_the_larger_the_better():
    def scored(watch, mode):
        return Validation(objective, Cut(8), watch=watch, mode=mode).score({"loss": 3.0, "each": np.ones(2)})

    assert scored("loss", None) == scored("loss", "min") == -3
    assert scored("loss", "max") == 3
    for watch, mode, message in (
        ("f1", "max", "'f1': the validation objective gives"),
        ("each", "max", r"array of shape \(2,\)"),
        ("each", None, "'each' without mode"),
        ("loss", "best", "mode='best'"),
    ):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=f"{message}|Type-check error"):
            scored(watch, mode)


def test_it_runs_where_the_parameters_are_and_compiles_once():
    traces = []

    def counted(*args):
        traces.append(1)
        return objective(*args)

    run = evaluator(counted)
    eight = mesh(fsdp=8)
    params = {"head": {"kernel": jnp.pad(PARAMS["head"]["kernel"], (0, 3))}}
    state = State(jnp.int32(0), params, {}, (), jax.random.key(0), {})
    placed = jax.device_put(state, state_sharding(state, eight, [(".*", fsdp(1))]))

    class Wide(Cut):
        def __getitem__(self, i):
            batch = super().__getitem__(i)
            return batch | {"x": np.pad(batch["x"], ((0, 0), (0, 3)))}

    with jax.transfer_guard("disallow"):
        first = run(Variables(placed.params, {}), Wide(16))
        again = run(Variables(placed.params, {}), Wide(16))
    assert first == again
    assert first["error"] == pytest.approx(expected()["error"], rel=1e-6)
    assert len(traces) == 1


def test_each_batch_draws_its_own_randomness_and_the_key_decides_it():
    def noisy(params, stats, batch, key, step):
        return mean(jax.random.normal(key, (8,))), Aux(stats, {})

    def run(seed, n):
        return evaluate(noisy, Variables(PARAMS, {}), Cut(n), key=jax.random.key(seed))["loss"]

    assert run(1, 8) == run(1, 8) != run(2, 8)
    assert run(1, 8) != run(1, 40), "five batches draw five times, one batch once"


def test_wrong_use_is_named():
    class Empty:
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="is empty"):
        evaluate(objective, Variables(PARAMS, {}), Empty())
    with pytest.raises(ValueError, match="does not divide over 8 devices"):
        evaluate(objective, Variables(PARAMS, {}), Cut(10), mesh=mesh())
    with pytest.raises(ValueError, match="patience=0"):
        Validation(objective, Cut(8), patience=0)
    with pytest.raises(ValueError, match="every=0"):
        Validation(objective, Cut(8), every=0)


@pytest.mark.parametrize("kind", ["term", "metric"])
def test_nothing_takes_the_name_of_the_total(kind):
    """It stood in the place of the total, in the scores of checkpoints too."""

    def named(params, stats, batch, key, step):
        one = {"loss": mean(batch["y"])}
        return ({**one, "prior": 2.0}, Aux(stats, {})) if kind == "term" else (3.0, Aux(stats, one))

    variables = Variables(PARAMS, {})
    step = make_step(named, optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"'loss' is the name of the total: call this {kind}"):
        jax.eval_shape(step, step.init(variables, jax.random.key(0)), Cut(8)[0])
    with pytest.raises(ValueError, match=f"'loss' is the name of the total: call this {kind}"):
        evaluate(named, variables, Cut(40))


def test_a_share_of_the_rows_is_not_taken_for_all_of_them(monkeypatch):
    """In a run of two processes each gave the number of its own half, without a word."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    texts = by_length({"mask": np.ones((8, 4), bool)}, batch_size=4)
    for data in (arrays(X, Y, batch_size=8), arrays(X, Y, batch_size=8, process_index=0, process_count=2), texts):
        with pytest.raises(ValueError, match=r"2 processes its share.*mesh=jtl.mesh\(\), or .* process_count=1"):
            evaluate(objective, Variables(PARAMS, {}), data)
    whole = arrays(X, Y, batch_size=37, process_index=0, process_count=1, shuffle=False)
    assert evaluate(objective, Variables(PARAMS, {}), whole)["square"] == pytest.approx(expected()["square"], rel=1e-6)


def test_data_of_masked_rows_alone_are_refused():
    """Their loss was 0, the best there is."""
    data = [{"x": X[:4], "y": Y[:4], "mask": np.zeros(4, bool)}] * 2
    with pytest.raises(ValueError, match="no row that counts, in 2 batches"):
        evaluate(
            lambda params, stats, batch, key, step: (mean(batch["y"] ** 2, batch["mask"]), Aux(stats)),
            Variables({"w": jnp.zeros(())}, {}),
            data,
        )
