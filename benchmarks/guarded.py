"""Runs a reader on hostile input: in bounded processor time and memory, and without side effects.

An audit hook ends the process if the watched code imports, executes code, starts a process, connects, or opens a file
for writing or outside its folder.
"""

import faulthandler
import resource
import signal
import sys
import tracemalloc  # noqa: F401  (a warning imports it when printed, and the hook ends a process that imports)
from collections.abc import Callable
from pathlib import Path

from jtl.weights.formats.errors import WeightNameError

MEMORY = 768 << 20  # bytes beyond those of the process when `limit` is called
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.", "exec", "compile", "import")
ALLOWED = ("os.listdir", "os.scandir", "ctypes.addressof", "socket.__new__")  # an event loop wakes itself by a socket

watching = ""
current = ""
overdue = False  # a flag, because an exception may be lost in a finaliser


def limit() -> None:
    """From now on allows at most `MEMORY` more bytes than now, and no side effects of code that `outcome` runs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGPROF, late)
    sys.addaudithook(guard)
    sys.unraisablehook = lambda _: None  # printing would read files


def outcome(
    label: str, folder: Path, run: Callable[[], object], refusals: tuple[type[Exception], ...], seconds: float
) -> str:
    """Returns "read", or "refused" after one of the expected exceptions; anything else is raised, with the label."""
    global watching, current, overdue
    current, watching, overdue = label, str(folder), False
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        run()
    except refusals as error:
        if len(str(error)) > 5000 and not isinstance(error, WeightNameError):  # that error lists all names
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
    """Ends the process at once if a reader does anything but read its case."""
    if not watching:
        return
    bad = event.startswith(FORBIDDEN) and not event.startswith(ALLOWED)
    if event == "import":
        bad = args[0] not in sys.modules and args[0].split(".")[0] not in ("encodings", "numpy")
    if event == "open":
        path, mode = str(args[0]), args[1]
        shown = path.endswith(".py")  # a traceback or a warning reads the source lines that it shows
        bad = not (shown or path.startswith(watching)) or (mode is not None and set(str(mode)) & set("wax+"))
    if bad:
        sys.stderr.write(f"FORBIDDEN {event} {args!r} in {current}\n")
        faulthandler.dump_traceback()
        signal.raise_signal(signal.SIGKILL)


def late(*_: object) -> None:
    """Is called when the processor time of a case is over."""
    global overdue
    overdue = True
    raise TimeoutError(f"took too long: {current}")
