"""What is asked of Linux for a process that must be on time is granted or said to be refused, and never fails."""

import subprocess
import sys

import pytest

ASK = """
import os
from efn_ros.robots.realtime import lock_memory, run_first
print(run_first({priority}), "|", os.sched_getscheduler(0) == os.SCHED_FIFO, "|", lock_memory())
"""


@pytest.mark.parametrize("priority", [0, 20])
def test_what_became_of_it_is_said(priority):
    words = subprocess.check_output([sys.executable, "-c", ASK.format(priority=priority)], text=True)
    scheduling, granted, memory = map(str.strip, words.split("|"))
    assert scheduling == (f"SCHED_FIFO {priority}" if granted == "True" else scheduling)
    assert (granted == "True") == scheduling.startswith("SCHED_FIFO")
    assert scheduling == "as usual" if priority == 0 else scheduling.startswith(("SCHED_FIFO", "refused: "))
    assert memory == "locked" or memory.startswith("refused: ")
