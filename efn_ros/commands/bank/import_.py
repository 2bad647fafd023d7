# SPDX-License-Identifier: MIT
"""Add the episodes of a LeRobotDataset or of a rosbag2."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efn_ros.commands._options import add_graph_options
from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import progress

if TYPE_CHECKING:
    from efn_ros.bank.convert.frames import Frames
    from efn_ros.bank.convert.rosbag import Bag
    from efn_ros.runtime.graph import Graph
    from efn_ros.types import Rollout

    Episodes = Iterator[tuple[str, Callable[[], Rollout]]]  # name of each, and a function that returns its rollout

TELEOPERATION = ("state", "action", "rate", "instruction")  # options that only a bag of a teleoperated robot needs
OUTCOMES = ("unknown", "success", "failure", "aborted")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    kinds = "a LeRobotDataset, version 3.0, or a rosbag2 (directory, .mcap, .db3)"
    parser.add_argument("source", type=Path, metavar="SOURCE", help=kinds)
    add_graph_options(parser)
    cameras = "cameras, or topics, whose names differ from those of the policy"
    parser.add_argument("--camera", nargs="+", metavar="OURS=THEIRS", help=cameras)
    parser.add_argument("--task", default="", help="short name of the task; default: the instruction")
    parser.add_argument("--outcome", default="", choices=OUTCOMES, help="if the source does not record it")
    parser.add_argument("--prefix", default="", help="of the identifiers; default: the name of the source")
    group = parser.add_argument_group("for a rosbag2 of a teleoperated robot, which is one episode")
    group.add_argument("--state", default="", metavar="TOPIC", help="of proprioception")
    group.add_argument("--action", default="", metavar="TOPIC", help="of the commands")
    group.add_argument("--rate", type=float, default=0.0, metavar="HZ", help="control rate of the policy")
    group.add_argument("--instruction", default="", help="in natural language")
    gap = "longest gap between two messages of a topic; %(default)s"
    group.add_argument("--max-gap", type=float, default=0.5, metavar="SECONDS", help=gap)


def run(args: argparse.Namespace) -> Output:
    """Run the action; episodes that are already in the bank stay unchanged."""
    from efn_ros.bank import BankReader
    from efn_ros.runtime.factory import make_writer
    from efn_ros.runtime.graph import Graph

    graph = Graph.load(args.graph, args.params_file)
    stored = {record.id for record in BankReader(args.bank).rollouts()}
    added: list[str] = []
    present: list[str] = []
    with _open(args, graph) as episodes, make_writer(graph.parameters("bank_writer"), args.bank) as writer:
        for name, make in progress("episodes")(episodes):
            if name not in stored:
                writer.append(make())
            (present if name in stored else added).append(name)
    text = f"{len(added)} episodes are added to {args.bank}, {len(present)} were in it already"
    return Output({"added": added, "already_present": present}, text)


@contextlib.contextmanager
def _open(args: argparse.Namespace, graph: Graph) -> Iterator[Episodes]:
    """The episodes of a recording of any kind."""
    from efn_ros.bank.convert.lerobot import INFO, read
    from efn_ros.bank.convert.rosbag import FILES, METADATA, is_bag, open_bag

    if (args.source / INFO).is_file():
        _refuse(args, "a LeRobotDataset", TELEOPERATION)
        recorded_ns = (args.source / INFO).stat().st_mtime_ns
        yield _with_policy(args, graph, ((recorded_ns, frames) for frames in read(args.source)))
    elif is_bag(args.source):
        with open_bag(args.source) as bag:
            if bag.has_graph_messages:
                _refuse(args, "a bag of the graph itself", (*TELEOPERATION, "camera", "task", "prefix", "outcome"))
                yield _of_graph(graph, bag)
            else:
                yield _with_policy(args, graph, [_teleoperated(args, graph, bag)])
    else:
        raise ValueError(
            f"{args.source} is no recording: neither a LeRobotDataset, with {INFO}, nor a rosbag2, with {METADATA} or "
            f"as one file {' or '.join(FILES)}"
        )


def _of_graph(graph: Graph, bag: Bag) -> Episodes:
    """The rollouts of a recorded graph."""
    from efn_ros.ros.recordings import read_rollouts

    robot = graph.parameters("bank_writer")["robot"]
    for rollout in read_rollouts(bag, robot, lambda text: print(f"efn bank: {text}", file=sys.stderr)):
        yield rollout.episode_id, lambda rollout=rollout: rollout


def _with_policy(args: argparse.Namespace, graph: Graph, episodes: Iterable[tuple[int, Frames]]) -> Episodes:
    """Rollouts with the inputs of the frozen policy, from the first stamp, ns, and the frames of each episode."""
    from efn_ros.bank.convert.demonstrations import as_rollout
    from efn_ros.runtime.factory import make_inference
    from efn_ros.types import Outcome

    inference, source = make_inference(graph.parameters("vla_policy")), args.source.resolve()
    spec, prefix = inference.policy.spec, args.prefix or (source.name if source.is_dir() else source.stem)
    common: dict[str, Any] = {
        "robot": graph.parameters("bank_writer")["robot"],
        "cameras": {name: name for name in spec.cameras} | _cameras(args),
        "image_size": spec.image_size,
        "task": args.task,
        "outcome": Outcome[(args.outcome or OUTCOMES[0]).upper()],
    }
    for start_ns, frames in episodes:
        name = f"{prefix}-{frames.index}"
        yield name, partial(as_rollout, frames, inference, episode_id=name, start_ns=start_ns, **common)


def _teleoperated(args: argparse.Namespace, graph: Graph, bag: Bag) -> tuple[int, Frames]:
    """The one episode of a bag of a teleoperated robot; images and states as camera_ingest publishes them."""
    from efn_ros.bank.convert.rosbag import frames
    from efn_ros.ros.recordings import read_image, read_vector

    for option in (*TELEOPERATION, "camera"):
        if not vars(args)[option]:
            raise ValueError(f"{args.source} is a bag of a teleoperated robot; add --{option}")
    ingest = graph.parameters("camera_ingest")
    joints = [joint for joint in ingest["joints"] if joint]
    readers = dict.fromkeys(_cameras(args).values(), read_image)
    readers |= {args.action: read_vector, args.state: partial(read_vector, joints=joints)}
    options = {option: vars(args)[option] for option in TELEOPERATION}
    return frames(bag, readers, **options, max_gap_s=args.max_gap, image_size=ingest["image_size"])


def _cameras(args: argparse.Namespace) -> dict[str, str]:
    """Our names of cameras -> theirs."""
    pairs = {}
    for text in args.camera or ():
        ours, equals, theirs = text.partition("=")
        if not (ours and equals and theirs):
            raise ValueError(f"--camera {text!r} is no pair; write OURS=THEIRS")
        pairs[ours] = theirs
    return pairs


def _refuse(args: argparse.Namespace, source: str, options: Iterable[str]) -> None:
    for option in options:
        if vars(args)[option]:
            raise ValueError(f"{args.source} is {source}; leave out --{option}")
