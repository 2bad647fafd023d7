# SPDX-License-Identifier: MIT
"""A launch_testing test, as a user of ROS 2 would write it: the simulated robot's launch file, and an episode in it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unittest
from pathlib import Path

import pytest

WHERE = "source a ROS 2, or set EFN_TEST_DATA to where ros2/install.sh is"
pytest.importorskip("launch_testing", reason=f"launch_testing is not installed: {WHERE}")
pytest.importorskip("launch_ros", reason=f"launch_ros is not installed: {WHERE}")

import harness
import launch_testing.actions
import launch_testing.asserts
from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from efn_ros.ros.client import Client
from efn_ros.worlds.metaworld import TASKS
from launch import LaunchDescription

_resources = contextlib.ExitStack()  # of the one run of this test: its domain and its directory


@pytest.mark.launch_test
@pytest.mark.integration
@pytest.mark.simulator
def generate_test_description() -> LaunchDescription:
    _resources.close()
    domain = _resources.enter_context(harness.own_domain())
    directory = Path(_resources.enter_context(tempfile.TemporaryDirectory(prefix="efn_launch_test_")))
    before = dict(os.environ)
    _resources.callback(lambda: (os.environ.clear(), os.environ.update(before)))
    os.environ.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    overlay = harness.write_overlay(directory / "overlay.yaml", harness.UNTRAINED)
    file = Path(get_package_share_directory("efn_ros")) / "launch" / "metaworld_sim.launch.py"
    graph = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(file)),
        launch_arguments={"params_file": str(overlay), "bank": str(directory / "bank"), "on_exit": "stop"}.items(),
    )
    return LaunchDescription([graph, launch_testing.actions.ReadyToTest()])


class TestTheGraph(unittest.TestCase):
    def test_an_episode_ends_and_is_stored(self) -> None:
        with Client() as client:
            client.wait_ready(harness.METAWORLD_SIM, harness.READY_S)
            record = client.run_episode("reach", TASKS["reach"], 0, timeout_s=harness.EPISODE_S)
        self.assertTrue(record.state.saved)
        self.assertEqual([action.context.step for action in record.actions], list(range(record.state.decisions)))


@launch_testing.post_shutdown_test()
class TestAfterTheEnd(unittest.TestCase):
    @classmethod
    def tearDownClass(cls) -> None:
        _resources.close()

    def test_every_node_ended_by_itself(self, proc_info) -> None:
        self.assertEqual(len(proc_info.process_names()), len(harness.METAWORLD_SIM))
        launch_testing.asserts.assertExitCodes(proc_info)
