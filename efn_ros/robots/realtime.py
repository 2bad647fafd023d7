# SPDX-License-Identifier: MIT
"""Real-time rights of a Linux process. A refusal is no error: it is returned as text."""

from __future__ import annotations

import ctypes
import os

CURRENT_AND_FUTURE = 1 | 2  # MCL_CURRENT, MCL_FUTURE


def set_priority(priority: int) -> str:
    """Schedule this thread, and threads that it starts later, by SCHED_FIFO.

    Args:
        priority: 1 to 99; 0: keep the scheduling policy.

    Returns:
        The result as text.
    """
    if not priority:
        return "default"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"refused: {error.strerror}; allow it with rtprio in /etc/security/limits.d"
    return f"SCHED_FIFO {priority}"


def lock_memory() -> str:
    """Keep all pages of this process in memory; return the result as text."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(CURRENT_AND_FUTURE):
        return f"refused: {os.strerror(ctypes.get_errno())}; allow it with memlock in /etc/security/limits.d"
    return "locked"
