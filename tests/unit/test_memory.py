import subprocess
import sys

import pytest

# each thread asks for a block that is too large for Python's own heap, as a tensor is
_COUNT_HEAPS = """
import ctypes, os, sys, tempfile
from threading import Barrier, Thread
from flowgauge.domain.malloc import share_one_heap

if sys.argv[1] == "shared":
    share_one_heap()
barrier = Barrier(3)
def work():
    block = bytearray(100_000)
    barrier.wait()
threads = [Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
with tempfile.NamedTemporaryFile() as facts:
    stream = libc.fdopen(os.dup(facts.fileno()), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    facts.seek(0)
    print(facts.read().count(b"<heap nr="))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives each thread a heap")
@pytest.mark.parametrize(("mode", "one"), [("shared", True), ("as it comes", False)])
def test_all_threads_share_one_heap(mode: str, one: bool) -> None:
    found = subprocess.run([sys.executable, "-c", _COUNT_HEAPS, mode], capture_output=True, text=True, check=True)
    assert (int(found.stdout) == 1) is one
