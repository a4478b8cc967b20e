"""`python exec_bound.py PARENT_PID PROGRAM ...`: become a program that ends when the process that started it ends.

The request is prctl(PR_SET_PDEATHSIG), which survives exec; it is made here, in the child, because running Python
between fork and exec of a parent with threads can hang. SIGTERM lets Triton end its own children. The signal comes
when the *thread* that started us ends, so the supervisor starts Triton from the thread that lives as long as it does.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent ended before the program started")
    os.execv(sys.argv[2], sys.argv[2:])
