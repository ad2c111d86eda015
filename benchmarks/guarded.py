"""Runs a reader on hostile input: within a time of the processor's, in bounded memory, and without any effect.

An audit hook ends the process if what is watched imports, executes, starts a process, connects, or opens a file to
write or outside its folder.
"""

import faulthandler
import resource
import signal
import sys
import tracemalloc  # noqa: F401  (a warning imports it when printed, and the hook ends a process that imports)
from collections.abc import Callable
from pathlib import Path

from jtl.weights.formats.errors import WeightNameError

MEMORY = 768 << 20  # bytes beyond what the process has when `limit` is called
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.", "exec", "compile", "import")
ALLOWED = ("os.listdir", "os.scandir", "ctypes.addressof", "socket.__new__")  # an event loop wakes itself by one

watching = ""
current = ""
overdue = False  # for an exception may end in a finaliser


def limit() -> None:
    """From here on no more memory than `MEMORY` beyond what is held, and no effects of what `outcome` runs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGPROF, late)
    sys.addaudithook(guard)
    sys.unraisablehook = lambda _: None  # printing would read files


def outcome(
    label: str, folder: Path, run: Callable[[], object], refusals: tuple[type[Exception], ...], seconds: float
) -> str:
    """`read`, or `refused` by one of the exceptions expected; anything else is raised, with the label."""
    global watching, current, overdue
    current, watching, overdue = label, str(folder), False
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        run()
    except refusals as error:
        if len(str(error)) > 5000 and not isinstance(error, WeightNameError):  # which lists all names
            raise AssertionError(f"{label}: a message of {len(str(error))} characters") from error
        return "refused"
    except BaseException as error:
        raise AssertionError(f"{label}: {type(error).__name__}: {str(error)[:500]}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watching = ""
        if overdue:
            raise AssertionError(f"{label}: more than {seconds} s of processor time")
    return "read"


def guard(event: str, args: tuple) -> None:
    """End the process at once if a reader does anything but read its case."""
    if not watching:
        return
    bad = event.startswith(FORBIDDEN) and not event.startswith(ALLOWED)
    if event == "import":
        bad = args[0] not in sys.modules and args[0].split(".")[0] not in ("encodings", "numpy")
    if event == "open":
        path, mode = str(args[0]), args[1]
        shown = path.endswith(".py")  # a traceback or a warning reads the lines that it shows
        bad = not (shown or path.startswith(watching)) or (mode is not None and set(str(mode)) & set("wax+"))
    if bad:
        sys.stderr.write(f"FORBIDDEN {event} {args!r} in {current}\n")
        faulthandler.dump_traceback()
        signal.raise_signal(signal.SIGKILL)


def late(*_: object) -> None:
    """The processor time of a case is over."""
    global overdue
    overdue = True
    raise TimeoutError(f"took too long: {current}")
