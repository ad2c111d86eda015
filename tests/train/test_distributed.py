"""Two processes of four devices are one process of eight."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtl.train.parallel import distributed

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("distributed_worker.py")


def launch(processes, folder, steps, until="end"):
    """Runs the workers to their end; returns exit codes and outputs."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
        "JAX_PLATFORMS": "cpu",
        "JTL_ROOT": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),  # half of a worker's time is the same programs
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    running = [
        subprocess.Popen(
            [sys.executable, WORKER, *map(str, (processes, rank, port, folder, steps, until))],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    assert codes == [0] * processes, said[0][1][-3000:] + said[-1][1][-3000:]
    return [out for out, _ in said]


def parameters(out):
    (line,) = [line for line in out.splitlines() if line.startswith("devices")]
    assert line.startswith("devices 8 ")
    return np.frombuffer(bytes.fromhex(line.split()[-1]), np.float32)


def validated(out):
    return next(float.fromhex(line.split()[1]) for line in out.splitlines() if line.startswith("validated"))


@pytest.mark.slow
def test_two_processes_train_as_one_and_read_each_others_checkpoints(tmp_path):
    one = launch(1, tmp_path / "one", 12)[0]
    first, second = launch(2, tmp_path / "two", 12)
    assert np.array_equal(parameters(first), parameters(second))
    assert validated(first) == validated(second)
    # The same eight devices add up the same eight parts, but gloo and one process's memory add them in another
    # order: float32 rounding, which adam's normalised updates of 1e-2 a step carry on for 12 steps.
    np.testing.assert_allclose(parameters(first), parameters(one), rtol=1e-4, atol=1e-5)
    assert validated(first) == pytest.approx(validated(one), rel=1e-5)
    assert "validation" in first
    assert "compiled" not in second, "process 0 alone shows progress"

    # Written by 2, read and gone on with by 1; written by 1, read by 2.
    one_on_two = launch(1, tmp_path / "two", 16)[0]
    two_on_one = launch(2, tmp_path / "one", 16)[0]
    assert "resuming from step 12" in one_on_two
    assert "resuming from step 12" in two_on_one
    np.testing.assert_allclose(parameters(one_on_two), parameters(two_on_one), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_under_pmap_two_processes_train_as_one_too(tmp_path):
    """Each process's devices alone would learn from half of the rows, and drift apart without a word."""
    one = launch(1, tmp_path / "one", 12, "pmap")[0]
    first, second = launch(2, tmp_path / "two", 12, "pmap")
    assert np.array_equal(parameters(first), parameters(second))
    np.testing.assert_allclose(parameters(first), parameters(one), rtol=1e-4, atol=1e-5)  # as above
    assert validated(first) == validated(second) == pytest.approx(validated(one), rel=1e-5)


@pytest.mark.slow
def test_two_processes_meta_learn_as_one(tmp_path):
    """Each draws and adapts to its own half of the tasks; θ and the learned rates come out the same."""
    one = launch(1, tmp_path / "one", 6, "meta")[0]
    first, second = launch(2, tmp_path / "two", 6, "meta")
    assert np.array_equal(parameters(first), parameters(second))
    np.testing.assert_allclose(parameters(first), parameters(one), rtol=1e-4, atol=1e-5)  # as above
    assert validated(first) == validated(second) == pytest.approx(validated(one), rel=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_and_saves_all(tmp_path):
    first, second = launch(2, tmp_path, 60, "term")
    last = [max(int(line.split()[1]) for line in out.splitlines() if line.startswith("step ") and line.count(" ") == 1)
            for out in (first, second)]  # fmt: skip
    assert last[0] == last[1] < 60
    assert f"saved step {last[0]}" in first
    resumed = launch(2, tmp_path, last[0] + 2)[0]
    assert f"resuming from step {last[0]}" in resumed


@pytest.mark.slow
def test_processes_that_differ_are_named(tmp_path):
    """Without a word their copies trained apart, each evaluated to a number of its own, or they waited for ever."""
    for out in launch(2, tmp_path, 1, "differ"):
        found = [line.split(": ")[-1] for line in out.splitlines() if line.startswith("differs")]
        assert found[0].startswith("backbone/")
        assert found[1] == found[0]
        assert found[2:] == [
            "len(data) is [9, 10] in processes 0 to 1",
            "rows of 'mask' is [4, 8] in processes 0 to 1",
            "len(data) is [2, 3] in processes 0 to 1",
            "the rows of all is [24, 48] in processes 0 to 1",
        ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1234", None, None), "give all three"),
        (("localhost:1234", 2, 2), "process=2 of processes=2"),
        (("localhost", 2, 1), "'host:port'"),
    ],
)
def test_wrong_arguments_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialize(*given)


def test_it_must_come_before_any_other_use_of_jax():
    code = "import jax; jax.devices(); from jtl import distributed; distributed.initialize('localhost:1', 1, 0)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert run.returncode
    assert "Call initialize() before any other use of jax" in run.stderr


@pytest.mark.slow
def test_both_processes_collect_all_rows_in_order(tmp_path):
    one = launch(1, tmp_path / "one", 0, "collect")[0]
    first, second = launch(2, tmp_path / "two", 0, "collect")
    labels = [next(line for line in out.splitlines() if line.startswith("labels")) for out in (one, first, second)]
    assert labels[0] == labels[1] == labels[2]
    whole, rows = np.random.default_rng, [16, 15, 14]  # the masks of the worker's batches
    wanted = [(whole(step).normal(size=(16, 6)).astype(np.float32).sum(1) > 0)[:n] for step, n in enumerate(rows)]
    found = np.frombuffer(bytes.fromhex(labels[0].split()[1]), np.int32)
    np.testing.assert_array_equal(found, np.concatenate(wanted))
    np.testing.assert_array_equal(parameters(first), parameters(second))
    np.testing.assert_allclose(parameters(first), parameters(one), rtol=1e-5, atol=1e-6)
