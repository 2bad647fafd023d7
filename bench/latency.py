# SPDX-License-Identifier: MIT
"""Latency of the loop itself: image stamp to corrected action at 30 Hz, with a policy that takes no time, from stamps.

Run as `./efn shell python bench/latency.py`. Beside it, in the same run, a plain relay of the same image between two
rclpy processes: what ROS 2 takes for one hop, and for a round trip. Prints a table, writes results/latency.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import rclpy
import yaml
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import Image

from efn_ros.report import provenance
from efn_ros.report.blocks.latency import latency_block
from efn_ros.report.latency import summary
from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client
from efn_ros.ros.fields import from_time
from efn_ros.ros.images import from_rgb
from efn_ros.ros.latency import stages
from efn_ros.ros.qos import SENSOR_DATA
from efn_ros.runtime.graph import Graph
from efn_ros.worlds.metaworld import TASKS

RESULTS = Path(__file__).parent / "results" / "latency.json"
TASK, RELAY_S = "reach", 10.0


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=5, help="of 200 images each")
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(80 + os.getpid() % 20))
    relay = measure_relay(args.rate, RELAY_S)
    loop, counts = measure_loop(args.rate, args.episodes)
    result = {**provenance.here(), "rate_hz": args.rate, **counts, "stages": summary({**loop, **relay})}
    print(latency_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def measure_loop(rate_hz: float, episodes: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return stage -> seconds of each corrected action, and how many there were."""
    with tempfile.TemporaryDirectory() as directory:
        overlay = Path(directory) / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(overlay_parameters(rate_hz)))
        graph = Graph.load("metaworld_sim", [overlay], bank=f"{directory}/bank")
        actions = []
        with Bringup(graph, output=Path(directory) / "log") as bringup:
            os.nice(10)  # this process, threads of the client included, must not delay the nodes that it measures
            with Client() as client:
                client.wait_ready(graph.names, watch=bringup.watch)
                for seed in range(episodes + 1):
                    record = client.run_episode(TASK, TASKS[TASK], seed, watch=bringup.watch)
                    if seed:  # the first episode fills the bank and every cache
                        actions += record.actions
    without_recall = sum(action.recall_s != action.recall_s for action in actions)
    return stages(actions), {"corrected_actions": len(actions), "without_recall": without_recall}


def overlay_parameters(rate_hz: float) -> dict:
    """Return a parameter file: real time, a constant policy, and a recall that is always followed."""

    def section(**values) -> dict:
        return {"ros__parameters": values}

    return {
        "/efn/sim_bridge": section(pacing="realtime", rate_hz=rate_hz, execute_steps=1),
        "/efn/camera_ingest": section(lossless=False),
        "/efn/vla_policy": section(
            policy="constant", cameras=["left", "right"], image_size=96, proprio_size=4, action_size=4, horizon=4
        ),
        "/efn/efn_corrector": section(deadline_s=0.02, control_steps=1, min_confidence=0.0),
    }


def measure_relay(rate_hz: float, seconds: float) -> dict[str, np.ndarray]:
    """Return the seconds of one hop, and of a round trip, of images that a second process relays."""
    process = multiprocessing.get_context("spawn").Process(target=relay, daemon=True)
    process.start()
    rclpy.init()
    node = rclpy.create_node("bench_source")
    hops, trips = [], []
    out = node.create_publisher(Image, "bench/out", SENSOR_DATA)

    def on_back(message: Image) -> None:
        now = node.get_clock().now().nanoseconds
        sent, relayed = message.header.frame_id.split()
        hops.append((int(relayed) - int(sent)) * 1e-9)
        trips.append((now - int(sent)) * 1e-9)

    node.create_subscription(Image, "bench/back", on_back, SENSOR_DATA)
    pixels = np.zeros((96, 96, 3), np.uint8)

    def send() -> None:
        now = node.get_clock().now()
        message = from_rgb(pixels, Image().header)
        message.header.stamp, message.header.frame_id = now.to_msg(), str(now.nanoseconds)
        out.publish(message)

    node.create_timer(1.0 / rate_hz, send)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    began = time.monotonic()
    while not trips or time.monotonic() - began < seconds:
        executor.spin_once(timeout_sec=0.1)
    process.terminate()
    process.join()
    node.destroy_node()
    rclpy.shutdown()
    first = len(trips) // 10  # those before are of a process that has just started
    return {"relay_hop": np.array(hops[first:]), "relay_round_trip": np.array(trips[first:])}


def relay() -> None:
    """Publish every image again, with its stamp and the present time in its frame_id."""
    rclpy.init()
    node = rclpy.create_node("bench_relay")
    back = node.create_publisher(Image, "bench/back", SENSOR_DATA)

    def on_image(message: Image) -> None:
        message.header.frame_id = f"{from_time(message.header.stamp)} {node.get_clock().now().nanoseconds}"
        back.publish(message)

    node.create_subscription(Image, "bench/out", on_image, SENSOR_DATA)
    with contextlib.suppress(ExternalShutdownException):  # raised on `terminate`
        rclpy.spin(node)


if __name__ == "__main__":
    main()
