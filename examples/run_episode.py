# SPDX-License-Identifier: MIT
"""Run one episode by its action, show its progress, and cancel it with Ctrl-C.

./efn shell python examples/run_episode.py reach "reach the red ball"
"""

from __future__ import annotations

import argparse

import rclpy
from efn_ros.action import RunEpisode
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions


def on_feedback(message: RunEpisode.Impl.FeedbackMessage) -> None:
    """Print how far the episode has come."""
    feedback = message.feedback
    print(f"{feedback.decisions} actions, {feedback.corrected} corrected, now {feedback.mode}", flush=True)


def main() -> None:
    """Run the episode that the command line names."""
    parser = argparse.ArgumentParser(description="Run one episode, show its progress, cancel it with Ctrl-C")
    parser.add_argument("task")
    parser.add_argument("instruction")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C cancels the goal, and the answer is awaited
    node = rclpy.create_node("episode_client")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    client = ActionClient(node, RunEpisode, "/efn/run_episode")
    if not client.wait_for_server(timeout_sec=60.0):
        raise SystemExit("no graph offers /efn/run_episode: is it running, in this ROS domain?")
    goal = RunEpisode.Goal(task=args.task, instruction=args.instruction, seed=args.seed, correct=True, record=True)
    sent = client.send_goal_async(goal, on_feedback)
    executor.spin_until_future_complete(sent)
    handle = sent.result()
    if handle is None or not handle.accepted:
        raise SystemExit("the graph refused the episode; its log says why")
    done = handle.get_result_async()
    try:
        executor.spin_until_future_complete(done)
    except KeyboardInterrupt:
        executor.spin_until_future_complete(handle.cancel_goal_async())
        executor.spin_until_future_complete(done)
    result = done.result().result
    outcome = {0: "unknown", 1: "success", 2: "failure", 3: "aborted"}[result.outcome]
    print(f"{outcome} after {result.length} control steps; in the bank: {result.saved} {result.message}".strip())
    client.destroy()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
