"""Freed memory is kept: counted by the pages that the system had to clear."""

import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys, threading
sys.path.insert(0, {root!r})
if {kept}:
    from jtl.allocator import keep_freed_memory
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = libc.memset.argtypes = None
size = 96 << 20

def touch(times):
    for _ in range(times):
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
        libc.memset(block, 1, ctypes.c_size_t(size))
        libc.free(block)

def counted():
    touch(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    touch(4)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
thread = threading.Thread(target=counted)
thread.start()
thread.join()
print(found[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the settings are those of glibc, on Linux")
def test_a_block_that_was_freed_is_taken_again_without_new_pages(request):
    """A thread takes, fills and frees 96 MiB four times: all pages anew by default, none with the memory kept."""

    def faults(kept):
        code = COUNT.format(root=str(request.config.rootpath), kept=kept)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults(False) > 4 * (96 << 20) / (2 << 20), "even with huge pages of 2 MiB each block has new pages"
    assert faults(True) < 40
