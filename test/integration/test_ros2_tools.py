# SPDX-License-Identifier: MIT
"""The launch files and the graph as the official ROS 2 tools see them."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from efn_ros.msg import CorrectedAction, EpisodeState
from harness import (
    END_S,
    EPISODE_S,
    METAWORLD_SIM,
    READY_S,
    TRUSTING,
    UNTRAINED,
    Parameters,
    load_graph,
    merged,
    processes_of,
    store_successes,
    write_overlay,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from efn_ros.bank import BankReader
from efn_ros.ros.client import Client
from efn_ros.ros.images import from_rgb
from efn_ros.ros.qos import LOSSLESS_SENSOR_DATA
from efn_ros.runtime.graph import Graph
from efn_ros.worlds.metaworld import TASKS

MISSING = [name for name in ("ros2cli", "ros2launch", "launch_ros") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"not installed: {', '.join(MISSING)}: source a ROS 2, or set EFN_TEST_DATA to where ros2/install.sh is",
    ),
]

ARGUMENTS = {"namespace", "params_file", "use_sim_time", "autostart", "log_level", "bank", "on_exit", "graph"}
ALONE = ("--no-daemon", "--spin-time", "4")  # a daemon would outlive the test


def ros2(*words: str, timeout_s: float = 40.0, attempts: int = 3) -> str:
    """What a `ros2` command prints; it must succeed. One that calls a service waits for ever if the answer is sent
    before discovery has told its sender of the one who asked, so what hangs is asked again."""
    try:
        done = subprocess.run(["ros2", *words], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        if attempts > 1:
            return ros2(*words, timeout_s=timeout_s, attempts=attempts - 1)
        raise
    assert done.returncode == 0, f"ros2 {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def launch(tmp_path: Path, run_mark: str) -> Iterator[Callable[..., subprocess.Popen]]:
    """launch(robot, parameters, argument=value...): `ros2 launch`, ended with the test."""
    started = []

    def launch(robot: str, parameters: Parameters, **arguments: str) -> subprocess.Popen:
        arguments = {"bank": str(tmp_path / "bank"), **arguments}
        arguments["params_file"] = str(write_overlay(tmp_path / "overlay.yaml", parameters))
        words = [f"{name}:={value}" for name, value in arguments.items()]
        with (tmp_path / "launch.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    ["ros2", "launch", "efn_ros", f"{robot}.launch.py", *words],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield launch
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print((tmp_path / "launch.log").read_text()[-5000:])


def end(process: subprocess.Popen, mark: str) -> None:
    """Ctrl-C ends everything in time."""
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + END_S
    while process.poll() is None or processes_of(mark):
        assert time.monotonic() < deadline, f"after {END_S:g} s there are still {processes_of(mark)}"
        time.sleep(0.02)


@pytest.mark.parametrize("robot", ["metaworld_sim", "agibot_g1", "arm_7dof", "replay"])
def test_every_argument_of_a_launch_file_is_described(robot):
    shown = ros2("launch", "efn_ros", f"{robot}.launch.py", "--show-args")
    described = dict(re.findall(r"'(\w+)':\n +(\S.*)\n", shown))
    assert set(described) == ARGUMENTS | ({"dry_run"} if robot == "agibot_g1" else set())
    assert all(len(text) > 10 for text in described.values())


def test_ros2_shows_the_interfaces():
    shown = ros2("interface", "show", "efn_ros/msg/CorrectedAction")
    for line in (
        "uint8 CORRECTED=0",
        "uint8 STOPPED=3",
        "StepHeader context",
        "ActionChunk corrected",
        "string reason",
    ):
        assert re.search(rf"^{re.escape(line)}", shown, re.MULTILINE), line
    assert "uint64 seed" in ros2("interface", "show", "efn_ros/srv/StartEpisode")


@pytest.mark.simulator
def test_ros2_launch_runs_the_graph_that_the_tools_inspect(launch, run_mark):
    process = launch("metaworld_sim", merged(UNTRAINED, {"efn_corrector": {"gain": 0.25}}))
    with Client() as client:
        client.wait_ready(METAWORLD_SIM, READY_S)
        record = client.run_episode("reach", TASKS["reach"], 0, timeout_s=EPISODE_S)
        assert record.state.saved and len(record.actions) == record.state.decisions

        with ThreadPoolExecutor() as pool:  # each spends its time on discovery
            state = pool.submit(ros2, "lifecycle", "get", *ALONE, "/efn/vla_policy")
            topics = pool.submit(ros2, "topic", "list", *ALONE)
            echoed = pool.submit(ros2, "topic", "echo", *ALONE, "--once", "/efn/episode")
            gain = pool.submit(ros2, "param", "get", *ALONE, "/efn/efn_corrector", "gain")
        assert state.result().split() == ["active", "[3]"]
        for name in ("observation", "policy_step", "corrected_action", "episode", "bank_changed", "camera/left/image"):
            assert f"/efn/{name}" in topics.result().split()
        assert "/diagnostics" in topics.result().split()
        assert f"episode_id: {record.state.episode_id}" in echoed.result() and "saved: true" in echoed.result()
        assert "0.25" in gain.result()
        end(process, run_mark)


@pytest.mark.simulator
def test_ros2_launch_restarts_or_stops_by_its_argument(launch, run_mark):
    process = launch("metaworld_sim", UNTRAINED, on_exit="stop", namespace="elsewhere")
    with Client("elsewhere") as client:
        client.wait_ready(METAWORLD_SIM, READY_S)
        assert client.node.count_publishers("/elsewhere/episode") == 1
    for pid, line in processes_of(run_mark).items():
        if "efn_ros/episode_manager" in line:
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 2 * END_S
    while process.poll() is None or processes_of(run_mark):
        assert time.monotonic() < deadline, f"the graph has not stopped: {processes_of(run_mark)}"
        time.sleep(0.02)


def test_the_graph_beside_an_agibot_g1_starts_without_moving_it_and_ends(launch, run_mark):
    process = launch("agibot_g1", {"**": {"diagnostics_period_s": 0.2}})
    bridge, others = "agibot_g1_bridge", [node.name for node in Graph.load("agibot_g1").nodes]
    others.remove(bridge)
    with Client() as client:
        client.wait_ready(others, READY_S)
        client.spin_until(lambda: client.lifecycle.get(bridge) == "inactive", READY_S, "the bridge says nothing")
        end(process, run_mark)


def test_a_dry_run_of_an_agibot_g1_is_launched(launch, run_mark):
    process = launch("agibot_g1", {"**": {"diagnostics_period_s": 0.2}}, dry_run="true")
    with Client() as client:
        client.wait_ready(["agibot_g1_driver", "agibot_g1_bridge", "vla_policy"], READY_S)
        end(process, run_mark)


RECORDED_AT_NS = 1_000_000_000_000  # when the replayed rollout was recorded, as its stamps say


def test_replayed_images_are_corrected_on_their_own_clock_and_nothing_is_stored(launch, run_mark, tmp_path):
    bank, decisions = tmp_path / "bank", 12
    store_successes(load_graph(tmp_path, TRUSTING), [bank], [("drawer-close", 100)])
    (rollout,), reader = BankReader(bank).snapshot().rollouts, BankReader(bank)
    process = launch("replay", merged(UNTRAINED, TRUSTING), use_sim_time="true")

    with Client() as client:
        clock = client.node.create_publisher(Clock, "/clock", 10)
        cameras = {
            side: client.node.create_publisher(Image, f"camera/{side}/image", LOSSLESS_SENSOR_DATA)
            for side in ("left", "right")
        }
        joints = client.node.create_publisher(JointState, "joint_states", LOSSLESS_SENSOR_DATA)
        now_ns = RECORDED_AT_NS - 5_000_000_000

        def advance(to_ns: int = 0) -> Time:
            nonlocal now_ns
            now_ns = max(now_ns + 1_000_000, to_ns)
            stamp = Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
            clock.publish(Clock(clock=stamp))
            return stamp

        client.wait_ready([node.name for node in Graph.load("replay").nodes], READY_S, watch=advance)
        task, instruction = rollout.record.task, rollout.record.instruction
        client.start_episode(task, instruction, seed=0, record=False)
        client.spin_until(lambda: client.episode.phase == EpisodeState.RUNNING, 30.0, "the episode has not begun")
        for step in range(decisions):
            header = Header(stamp=advance(RECORDED_AT_NS + int(rollout.arrays.stamps_ns[step])))

            def answered(header: Header = header, step: int = step) -> bool:
                advance()
                if not any(a.context.header.stamp == header.stamp for a in client._record.actions):
                    for side, camera in cameras.items():
                        camera.publish(from_rgb(reader.image(rollout.record.id, step, side), header))
                    joints.publish(JointState(header=header, position=rollout.arrays.proprio[step].tolist()))
                    return False
                return True

            client.spin_until(answered, 60.0, f"recorded look {step} has no corrected action")
        actions = {action.context.step: action for action in client._record.actions}
        client.abort("the recording has ended")
        assert sorted(actions) == list(range(decisions))
        for action in actions.values():
            assert action.context.header.stamp.sec >= RECORDED_AT_NS // 10**9 and not action.context.record
        corrected = [action for action in actions.values() if action.mode == CorrectedAction.CORRECTED]
        assert len(corrected) > decisions / 2
        assert {action.rollout_id for action in corrected} == {rollout.record.id}
        assert any(np.any(action.residual.data) for action in corrected)
        end(process, run_mark)
    assert [r.record.id for r in BankReader(bank).snapshot().rollouts] == [rollout.record.id]
