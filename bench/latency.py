"""The loop's own latency: image stamp to corrected action with a policy that costs nothing, at 30 Hz, from stamps.

Run as `./efn shell python bench/latency.py`. Beside it, in the same run, a plain relay of the same image between two
rclpy processes: what ROS 2 takes for one hop, and for there and back. Prints a table, writes results/latency.json.
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

from efn_ros.report import latency, provenance, tables
from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client
from efn_ros.ros.conversions import from_time
from efn_ros.ros.images import from_rgb
from efn_ros.ros.qos import SENSOR_DATA
from efn_ros.runtime.graph import Graph
from efn_ros.worlds.metaworld import TASKS

RESULTS = Path(__file__).parent / "results" / "latency.json"
TASK = "reach"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=5, help="of 200 images each")
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(80 + os.getpid() % 20))
    relay = measure_relay(args.rate, seconds=10.0)
    loop, counts = measure_loop(args.rate, args.episodes)
    report = {stage: values for stage, values in latency.summary({**loop, **relay}).items()}
    names = {**latency.STAGES, "relay_hop": "plain relay: one hop", "relay_round_trip": "plain relay: there and back"}
    columns = ("p50_s", "p95_s", "p99_s", "max_s")
    rows = [[names[s], *(tables.milliseconds(v[c]) for c in columns), v["n"]] for s, v in report.items()]
    print(tables.markdown(["latency, ms", "median", "p95", "p99", "max", "n"], rows))
    print(f"\n{counts}")
    result = {**provenance.here(), "rate_hz": args.rate, **counts, "stages": report}
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"results  {args.results}")


def measure_loop(rate_hz: float, episodes: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    with tempfile.TemporaryDirectory() as directory:
        overlay = Path(directory) / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(overlay_parameters(rate_hz)))
        graph = Graph.load("libero_sim", [overlay], bank=f"{directory}/bank")
        actions = []
        with Bringup(graph, output=Path(directory) / "log") as bringup, contextlib.ExitStack() as stack:
            os.nice(10)  # who measures must not stand in the way
            client = stack.enter_context(Client())
            client.wait_ready([node.executable for node in graph.nodes], watch=bringup.watch)
            for seed in range(episodes + 1):
                record = client.run_episode(TASK, TASKS[TASK], seed, watch=bringup.watch)
                if seed == 0:  # fills the memory, and warms everything up
                    continue
                actions += record.actions
    counts = {
        "corrected_actions": len(actions),
        "without_recall": sum(a.recall_s != a.recall_s for a in actions),
    }
    return latency.stages(actions), counts


def overlay_parameters(rate_hz: float) -> dict:
    def section(**values) -> dict:
        return {"ros__parameters": values}

    return {
        "/efn/libero_bridge": section(pacing="realtime", rate_hz=rate_hz, execute_steps=1),
        "/efn/camera_ingest": section(lossless=False),
        "/efn/vla_policy": section(
            policy="constant", cameras=["left", "right"], image_size=96, proprio_size=4, action_size=4, horizon=4
        ),
        "/efn/efn_corrector": section(deadline_s=0.02, control_steps=1, min_confidence=0.0),
    }


def measure_relay(rate_hz: float, seconds: float) -> dict[str, np.ndarray]:
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
    warm = len(trips) // 10
    return {"relay_hop": np.array(hops[warm:]), "relay_round_trip": np.array(trips[warm:])}


def relay() -> None:
    rclpy.init()
    node = rclpy.create_node("bench_relay")
    back = node.create_publisher(Image, "bench/back", SENSOR_DATA)

    def on_image(message: Image) -> None:
        message.header.frame_id = f"{from_time(message.header.stamp)} {node.get_clock().now().nanoseconds}"
        back.publish(message)

    node.create_subscription(Image, "bench/out", on_image, SENSOR_DATA)
    with contextlib.suppress(ExternalShutdownException):  # the end that `terminate` brings
        rclpy.spin(node)


if __name__ == "__main__":
    main()
