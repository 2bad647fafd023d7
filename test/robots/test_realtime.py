# SPDX-License-Identifier: MIT
"""Real-time rights are granted, or refused as text; asking for them never fails."""

import subprocess
import sys

import pytest

ASK = """
import os
from efn_ros.robots.realtime import lock_memory, set_priority
print(set_priority({priority}), "|", os.sched_getscheduler(0) == os.SCHED_FIFO, "|", lock_memory())
"""


@pytest.mark.parametrize("priority", [0, 20])
def test_the_result_is_returned_as_text(priority):
    words = subprocess.check_output([sys.executable, "-c", ASK.format(priority=priority)], text=True)
    scheduling, granted, memory = map(str.strip, words.split("|"))
    assert scheduling == (f"SCHED_FIFO {priority}" if granted == "True" else scheduling)
    assert (granted == "True") == scheduling.startswith("SCHED_FIFO")
    assert scheduling == "default" if priority == 0 else scheduling.startswith(("SCHED_FIFO", "refused: "))
    assert memory == "locked" or memory.startswith("refused: ")
