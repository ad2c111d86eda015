"""Two processes write what is frozen once, together; one process reads it, and the other way round."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WORKER = Path(__file__).with_name("frozen_worker.py")


def launch(processes, folder, what):
    """Runs the workers to their end; returns what they read."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
        "JAX_PLATFORMS": "cpu",
        "JTL_ROOT": str(ROOT),
    }
    commands = [[sys.executable, WORKER, *map(str, (processes, i, port, folder, what))] for i in range(processes)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) for command in commands]
    try:
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, said[0][1][-3000:] + said[-1][1][-3000:]
    return [out.split()[-4:] for out, _ in said]


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 2])
def test_frozen_parameters_of_processes(tmp_path, writers):
    expected = ["read", "1", "1.0", str(float(sum(range(64))))]
    assert launch(writers, tmp_path, "save") == [expected] * writers
    assert len(list(tmp_path.glob("frozen_*"))) == 1
    assert launch(3 - writers, tmp_path, "read") == [expected] * (3 - writers)
