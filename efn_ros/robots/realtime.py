"""What Linux does for a process that must be on time. Nothing here fails: what was refused is said."""

from __future__ import annotations

import ctypes
import os

CURRENT_AND_FUTURE = 1 | 2  # MCL_CURRENT, MCL_FUTURE


def run_first(priority: int) -> str:
    """Schedule this thread and those it starts from now on by SCHED_FIFO with that priority, 1 to 99; 0 leaves it as it
    is. Returns what became of it, in words."""
    if not priority:
        return "as usual"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"refused: {error.strerror}; allow it with rtprio in /etc/security/limits.d"
    return f"SCHED_FIFO {priority}"


def lock_memory() -> str:
    """Keep all pages of this process in memory. Returns what became of it, in words."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(CURRENT_AND_FUTURE):
        return f"refused: {os.strerror(ctypes.get_errno())}; allow it with memlock in /etc/security/limits.d"
    return "locked"
