# SPDX-License-Identifier: MIT
"""The example of the README, as an integrator runs it: beside a publisher of corrected actions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from documents import ROOT, blocks
from harness import own_domain

PUBLISHER = """
import rclpy
from efn_ros.msg import ActionChunk, CorrectedAction
from efn_ros.ros.qos import LATCHED_STEPS

rclpy.init()
node = rclpy.create_node("efn_corrector", namespace="efn")
action = CorrectedAction(mode=CorrectedAction.CORRECTED, confidence=0.8)
action.context.episode_id, action.context.step = "seven", 3
action.corrected = ActionChunk(horizon=2, action_size=2, data=[0.25, -1.0, 0.5, 0.5])
publisher = node.create_publisher(CorrectedAction, "corrected_action", LATCHED_STEPS)
node.create_timer(0.1, lambda: publisher.publish(action))
rclpy.spin(node)
"""


@pytest.mark.integration
def test_the_example_for_integrators_runs():
    programs = [block.text for block in blocks(ROOT / "README.md", language="python")]
    example = next(text for text in programs if "create_subscription" in text)
    with own_domain() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=environment)
        listener = subprocess.Popen([sys.executable, "-c", example], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            line = listener.stdout.readline()
        finally:
            for process in (publisher, listener):
                process.kill()
                process.wait()
    for part in ("seven", "3", "0.25", "-1."):
        assert part in line
