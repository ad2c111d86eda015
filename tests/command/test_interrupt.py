"""Ctrl-C outside of training: the exit status is that of an interrupted command, and what was saved is whole."""

import os
import signal
import subprocess
import sys

import made
import numpy as np
import pytest
from PIL import Image

# At its end the interpreter crashes, as it does where threads of XLA still compile.
CRASHING = """
import atexit, os, signal, sys
import jax, optax, jtl
from jtl import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without

folder = sys.argv.pop()

def run(**_):
    step = jtl.make_step(lambda *a: None, optax.sgd(0.1))
    variables = jtl.Variables({"head": {"w": jax.numpy.ones((512, 512))}}, {})
    jtl.Checkpoints(folder).save(step.init(variables, jax.random.key(0)))  # and no wait
    print("said before", end="")
    os.kill(os.getpid(), signal.SIGINT)

cli.actions.features = run
atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
cli.main()
"""


def test_an_interrupted_command_does_not_take_the_interpreter_down(tmp_path):
    words = ["features", "photos", "--weights", "w", str(tmp_path / "saved")]
    done = subprocess.run([sys.executable, "-c", CRASHING, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "said before")
    assert done.stderr.endswith("jtl: interrupted\n")
    assert len(list((tmp_path / "saved").glob("step_*/manifest.json"))) == 1


@pytest.mark.whole
def test_ctrl_c_while_features_are_computed_ends_with_130(tmp_path):
    weights = made.folder(tmp_path / "net", made.RESNET)
    for k, name in enumerate(("ants", "bees")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng((k, i)).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    words = ["finetune", str(tmp_path / "photos"), "--weights", str(weights), "--out", str(tmp_path / "run")]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from jtl.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", start, *words], env=env, **pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "features of train\n":
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert rest.endswith("jtl: interrupted\n")
