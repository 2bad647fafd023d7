"""look into an experience bank and take care of it: list, show, plot, verify, forget, merge, export, import, rebuild"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

MAX_GAP_S = 0.5  # for which a topic may be silent
TEACHERS = 10  # rollouts that are shown; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="verb", required=True, metavar="ACTION")
    for action, (_, what, *arguments) in ACTIONS.items():
        command = commands.add_parser(action, help=what, description=what)
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON instead of tables")
        for argument in arguments:
            argument(command)


def run(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankError
    from efn_ros.bank.format.catalogue import CATALOGUE

    args.bank = args.bank.expanduser()
    if args.verb not in MAKE and not (args.bank / CATALOGUE).is_file():
        print(f"efn bank: there is no bank in {args.bank}: it holds no {CATALOGUE}", file=sys.stderr)
        return 2
    try:
        return ACTIONS[args.verb][0](args)
    except (BankError, OSError, ValueError, KeyError) as error:
        print(f"efn bank: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2


def ls(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.conditions import date_of, matching
    from efn_ros.report import tables

    records = matching(BankReader(args.bank).rollouts(), args.where)
    if args.json:
        print(json.dumps([_plain(record) for record in records], indent=1))
        return 0
    columns = ["rollout", "began (UTC)", "robot", "task", "outcome", "decisions", "MB", "policy"]
    rows = [
        [
            r.id,
            date_of(r).replace("T", " "),
            r.robot,
            r.task,
            r.outcome.name.lower(),
            r.decisions,
            f"{r.payload_size / 1e6:.1f}",
            r.policy,
        ]
        for r in records
    ]
    print(tables.markdown(columns, rows))
    print(f"\n{len(records)} rollouts, {sum(r.decisions for r in records)} decisions")
    return 0


def show(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader
    from efn_ros.report.contact_sheet import contact_sheet

    found = [r for r in BankReader(args.bank).snapshot().rollouts if r.record.id == args.rollout]
    if not found:
        raise KeyError(f"rollout {args.rollout!r} is not in {args.bank}; ./efn bank ls {args.bank} lists them")
    output = args.output or Path(f"{args.rollout}.png".replace("/", "_"))
    contact_sheet(found[0], output)
    if args.json:
        print(json.dumps(_plain(found[0].record) | {"contact_sheet": str(output)}, indent=1))
    else:
        for name, value in _plain(found[0].record).items():
            print(f"{name:>16}  {value}")
        print(f"\ncontact sheet: {output}")
    return 0


def plot(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.conditions import matching
    from efn_ros.report.bank_figure import bank_figure

    rollouts = BankReader(args.bank, skip_corrupt=True).snapshot().rollouts
    meant = {record.id for record in matching((r.record for r in rollouts), args.where)}
    output = args.output or Path(f"{args.bank.resolve().name}.png")
    bank_figure([r for r in rollouts if r.record.id in meant], output)
    print(json.dumps({"rollouts": len(meant), "figure": str(output)}) if args.json else f"figure: {output}")
    return 0


def stats(args: argparse.Namespace) -> int:
    from efn_ros.bank.store import summary
    from efn_ros.report import tables

    rollouts = _verified(args.bank)
    held = summary.contents([r.record for r in rollouts])
    modes, teachers = summary.exploration(rollouts), summary.teachers(rollouts)
    if args.json:
        print(json.dumps({"contents": held, "exploration": modes, "teachers": teachers}, indent=1))
        return 0
    rows = [[_group(r), r["rollouts"], r["decisions"], f"{r['bytes'] / 1e6:.1f}"] for r in held]
    print(tables.markdown(["task", "rollouts", "decisions", "MB"], rows))
    print("\nExploration; taught: corrections in successes that such a decision was the experience behind\n")
    columns = ["mode", "decisions", "rollouts", "successes", "taught"]
    print(tables.markdown(columns, [[r[c] for c in columns] for r in modes]))
    if teachers:
        print("\nWhat taught most: the experience behind corrections in episodes that then succeeded\n")
        columns = ["rollout", "task", "outcome", "corrections", "episodes"]
        print(tables.markdown(columns, [[r[c] for c in columns] for r in teachers[:TEACHERS]]))
    return 0


def shadow(args: argparse.Namespace) -> int:
    from efn_ros.bank.store import summary
    from efn_ros.report import tables

    changes = summary.shadow(_verified(args.bank))
    if args.json:
        print(json.dumps(changes, indent=1))
        return 0
    if not changes:
        print(
            "no decision of this bank was made in shadow: set shadow: true of efn_corrector, and record",
            file=sys.stderr,
        )
        return 1
    rows = [
        [
            _group(r),
            r["rollouts"],
            r["decisions"],
            tables.percent(r["proposed"]),
            tables.percent(r["cut"]),
            f"{r['confidence']:.2f}",
        ]
        for r in changes
    ]
    print(tables.markdown(["task", "rollouts", "decisions", "proposed", "cut by limits", "confidence"], rows))
    size = max(len(r["mean"]) for r in changes)
    if not size:
        return 0
    print("\nResidual proposed: mean and largest size by dimension of the action, in its units\n")
    pairs = [[f"{m:.3f} / {x:.3f}" for m, x in zip(r["mean"], r["largest"], strict=True)] for r in changes]
    rows = [[_group(r), *(said or ["-"] * size)] for r, said in zip(changes, pairs, strict=True)]
    print(tables.markdown(["task", *map(str, range(size))], rows))
    return 0


def verify(args: argparse.Namespace) -> int:
    from efn_ros.bank.store.verify import verify

    rollouts, findings = verify(args.bank, _progress("rollouts"))
    return _report(args, {"rollouts": rollouts}, findings, f"{rollouts} rollouts read")


def rebuild(args: argparse.Namespace) -> int:
    from efn_ros.bank.store.rebuild import rebuild

    rollouts, findings = rebuild(args.bank, _progress("payloads"))
    return _report(args, {"rollouts": rollouts}, findings, f"{rollouts} rollouts are in the new catalogue")


def forget(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.conditions import matching

    if not args.where:
        raise ValueError("nothing says what to forget; name it with --where, for instance id=seed-0 or task=push*")
    records = matching(BankReader(args.bank).rollouts(), args.where)
    if args.yes and records:
        with _writer(args.bank) as writer:
            writer.forget(*(r.id for r in records), reason=args.reason)
    if args.json:
        print(json.dumps({"forgotten": [r.id for r in records] if args.yes else [], "meant": [r.id for r in records]}))
        return 0
    for record in records:
        print(f"{record.id}  {record.task}  {record.outcome.name.lower()}  {record.decisions} decisions")
    gone = "are forgotten" if args.yes else "would be forgotten; say --yes to do it"
    print(f"{len(records)} rollouts {gone}")
    return 0


def merge(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader

    adopted, there, kept_out, unlike = [], [], [], []
    sources = [BankReader(source.expanduser()).snapshot() for source in args.sources]
    for source, snapshot in zip(args.sources, sources, strict=True):
        if not snapshot.projection:
            raise ValueError(f"there is no bank in {source}")
    with _writer(args.bank, sources[0].projection) as writer:
        held, forgotten = {r.id: r.payload_checksum for r in BankReader(args.bank).rollouts()}, writer.forgotten()
        for rollout in _progress("rollouts")([r for snapshot in sources for r in snapshot.rollouts]):
            record = rollout.record
            if record.id in held:
                (there if held[record.id] == record.payload_checksum else unlike).append(record.id)
            elif record.id in forgotten and not args.forgotten:
                kept_out.append(record.id)
            else:
                writer.adopt(rollout)
                held[record.id] = record.payload_checksum
                adopted.append(record.id)
    if args.json:
        told = {"adopted": adopted, "there_already": there, "forgotten": kept_out, "another_of_that_name": unlike}
        print(json.dumps(told, indent=1))
    else:
        print(f"{len(adopted)} rollouts are added to {args.bank}, {len(there)} were there already")
        for names, why in (
            (kept_out, "were forgotten there and stay so, unless --forgotten is said"),
            (unlike, "are not added: there are others of that name"),
        ):
            if names:
                print(f"{len(names)} {why}: {', '.join(names)}")
    return 1 if unlike else 0


def export(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader
    from efn_ros.bank.convert.lerobot import export
    from efn_ros.bank.store.conditions import matching

    rollouts = BankReader(args.bank).snapshot().rollouts
    meant = {record.id for record in matching((r.record for r in rollouts), args.where)}
    chosen = [r for r in rollouts if r.record.id in meant]
    frames = export(chosen, args.dataset, fps=args.fps, progress=_progress("episodes"))
    told = {"episodes": len(chosen), "frames": frames, "dataset": str(args.dataset)}
    print(json.dumps(told) if args.json else f"{len(chosen)} episodes, {frames} frames: {args.dataset}")
    return 0


def import_(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankReader
    from efn_ros.runtime.factory import make_writer
    from efn_ros.runtime.graph import Graph

    graph = Graph.load(args.robot, tuple(args.params_file or ()))
    there, added, already = {r.id for r in BankReader(args.bank).rollouts()}, [], []
    with _recording(args, graph) as episodes, make_writer(graph.parameters("bank_writer"), args.bank) as writer:
        for name, make in _progress("episodes")(episodes):
            if name in there:
                already.append(name)
                continue
            writer.append(make())
            added.append(name)
    if args.json:
        print(json.dumps({"added": added, "there_already": already}, indent=1))
    else:
        print(f"{len(added)} episodes are added to {args.bank}, {len(already)} were there already")
    return 0


@contextlib.contextmanager
def _recording(args: argparse.Namespace, graph) -> Iterator[Iterable[tuple[str, Callable]]]:
    """The episodes of what was recorded: their names, and what makes their rollouts."""
    from efn_ros.bank.convert.lerobot import INFO, read
    from efn_ros.bank.convert.rosbag import FILES, METADATA, is_bag, open_bag

    if (args.source / INFO).is_file():
        _refuse(args, "a LeRobotDataset", OPERATED)
        made_ns = (args.source / INFO).stat().st_mtime_ns
        yield _seen_again(args, graph, ((made_ns, frames) for frames in read(args.source)))
    elif is_bag(args.source):
        with open_bag(args.source) as bag:
            if bag.of_graph:
                _refuse(args, "a bag of the graph itself", (*OPERATED, "camera", "task", "prefix", "outcome"))
                yield _as_remembered(graph, bag)
            else:
                yield _seen_again(args, graph, [_operated(args, graph, bag)])
    else:
        raise ValueError(
            f"{args.source} is no recording: neither a LeRobotDataset, with {INFO}, nor a rosbag2, with {METADATA} or "
            f"as one file {' or '.join(FILES)}"
        )


def _as_remembered(graph, bag) -> Iterator[tuple[str, Callable]]:
    from efn_ros.ros.recordings import rollouts

    robot = graph.parameters("bank_writer")["robot"]
    for rollout in rollouts(bag, robot, lambda said: print(f"efn bank: {said}", file=sys.stderr)):
        yield rollout.episode_id, lambda rollout=rollout: rollout


def _seen_again(args: argparse.Namespace, graph, episodes: Iterable[tuple]) -> Iterator[tuple[str, Callable]]:
    """As the frozen policy sees them. episodes: the stamp of the first frame, nanoseconds, and the frames of each."""
    from efn_ros.bank.convert.demonstrations import as_rollout
    from efn_ros.runtime.factory import make_inference
    from efn_ros.types import Outcome

    inference, source = make_inference(graph.parameters("vla_policy")), args.source.resolve()
    spec, prefix = inference.policy.spec, args.prefix or (source.name if source.is_dir() else source.stem)
    cameras = {name: name for name in spec.cameras} | _cameras(args)
    told = {"robot": graph.parameters("bank_writer")["robot"], "cameras": cameras, "image_size": spec.image_size}
    told |= {"task": args.task, "outcome": Outcome[(args.outcome or OUTCOMES[0]).upper()]}
    for start_ns, frames in episodes:
        name = f"{prefix}-{frames.index}"
        yield name, partial(as_rollout, frames, inference, episode_id=name, start_ns=start_ns, **told)


def _operated(args: argparse.Namespace, graph, bag) -> tuple:
    """The one episode of a bag of a robot that somebody operated; images and states as camera_ingest gives them."""
    from efn_ros.bank.convert.rosbag import frames
    from efn_ros.ros.recordings import image, vector

    if missing := [word for word in (*OPERATED, "camera") if not getattr(args, word)]:
        raise ValueError(f"{args.source} is a bag of a robot that somebody operated; say --{missing[0]} too")
    ingested = graph.parameters("camera_ingest")
    joints = [joint for joint in ingested.get("joints", ()) if joint]
    readers = dict.fromkeys(_cameras(args).values(), image)
    readers |= {args.action: vector, args.state: partial(vector, joints=joints)}
    words = {word: getattr(args, word) for word in OPERATED}
    return frames(bag, readers, **words, max_gap_s=args.max_gap, image_size=ingested["image_size"])


def _cameras(args: argparse.Namespace) -> dict[str, str]:
    return dict(_pair(text) for text in args.camera or ())


def _refuse(args: argparse.Namespace, source: str, words: Iterable[str]) -> None:
    for word in words:
        if getattr(args, word):
            raise ValueError(f"{args.source} is {source}; leave out --{word}")


def migrate(args: argparse.Namespace) -> int:
    from efn_ros.bank.store.migrate import migrate

    rollouts, left = migrate(args.bank, skip_corrupt=args.skip_corrupt, progress=_progress("rollouts"))
    if args.json:
        print(json.dumps({"migrated": rollouts, "left_behind": left}, indent=1))
        return 0
    for name in left:
        print(f"rollout {name!r} is corrupt and left behind", file=sys.stderr)
    print(f"{rollouts} rollouts are brought over" if rollouts or left else "this bank is of the present format already")
    return 0


def _verified(bank: Path):
    """All rollouts that are whole; the others are named."""
    from efn_ros.bank import BankReader

    snapshot = BankReader(bank, skip_corrupt=True).snapshot(verified=True)
    for rollout in snapshot.skipped:
        print(f"efn bank: rollout {rollout!r} is corrupt and left out", file=sys.stderr)
    return snapshot.rollouts


def _writer(bank: Path, projection: str = ""):
    from efn_ros.bank import BankReader, BankWriter
    from efn_ros.features.sketches import Projection

    own = BankReader(bank).snapshot().projection
    return BankWriter(bank, projection=Projection.named(own or projection))


def _report(args: argparse.Namespace, numbers: dict, findings: list, said: str) -> int:
    if args.json:
        print(json.dumps(numbers | {"findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(f"{finding.where}: {f'rollout {finding.rollout!r}: ' if finding.rollout else ''}{finding.what}")
        print(f"{said}, {len(findings) or 'nothing'} damaged")
    return 1 if findings else 0


def _plain(record) -> dict:
    """A record for people and for JSON."""
    from efn_ros.bank.store.conditions import date_of

    return {**asdict(record), "outcome": record.outcome.name.lower(), "began": date_of(record)}


def _progress(what: str) -> Callable[[list], Iterable]:
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=what, disable=None)


def _group(row: dict) -> str:
    return f"{row['task']}, {row['outcome']}" if row["outcome"] else row["task"]


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="CONDITION",
        help="all of which hold: task=push*, outcome=failure,aborted, 'date>=2026-11-01', 'decisions<5', ...",
    )  # fmt: skip


def _sheet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rollout", help="its identifier")
    parser.add_argument("--output", type=Path, metavar="PNG", help="of the contact sheet; default: the identifier")


def _figure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="PNG", help="default: the name of the bank")


def _consent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do it; else it is only said what would be forgotten")
    parser.add_argument("--reason", default="asked for by hand", help="that is kept with what is forgotten")


def _sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="banks whose rollouts are added")
    parser.add_argument("--forgotten", action="store_true", help="also those that were forgotten in BANK")


def _dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="directory of a LeRobotDataset, version 3.0")


def _source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a LeRobotDataset, version 3.0, or a rosbag2 (directory, .mcap, .db3)",
    )


def _rate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fps", type=float, default=0.0, help="frames a second; default: what the stamps say")


def _policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", default="libero_sim", help="which config/<robot>.yaml: policy, projection, cameras")
    parser.add_argument("--params-file", action="append", help="parameters laid over the robot's own")
    parser.add_argument(
        "--camera", nargs="+", metavar="OURS=THEIRS", help="cameras, or topics, whose names are not the policy's"
    )
    parser.add_argument("--task", default="", help="short name of the task; default: what the robot was told")
    parser.add_argument("--outcome", default="", choices=OUTCOMES, help="where the source does not say")
    parser.add_argument("--prefix", default="", help="of the identifiers; default: the name of the source")


def _teleoperation(parser: argparse.ArgumentParser) -> None:
    said = parser.add_argument_group("of a rosbag2 of a robot that somebody operated, which is one episode")
    said.add_argument("--state", default="", metavar="TOPIC", help="of proprioception")
    said.add_argument("--action", default="", metavar="TOPIC", help="of what was commanded")
    said.add_argument(
        "--rate", type=float, default=0.0, metavar="HZ", help="frames a second: the policy's control steps"
    )
    said.add_argument("--instruction", default="", help="what the robot was told")
    said.add_argument(
        "--max-gap",
        type=float,
        default=MAX_GAP_S,
        metavar="SECONDS",
        help="for which a topic may be silent; %(default)s",
    )


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise ValueError(f"--camera {text!r} is no pair; write OURS=THEIRS")
    return ours, theirs


def _skip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-corrupt", action="store_true", help="leave corrupt rollouts behind and name them")


OPERATED = ("state", "action", "rate", "instruction")  # that only a bag of an operated robot needs
OUTCOMES = ("unknown", "success", "failure", "aborted")
MAKE = ("import", "merge", "rebuild")  # that need no catalogue yet
ACTIONS: dict[str, tuple] = {
    "ls": (ls, "the rollouts, all or those that meet conditions", _where),
    "show": (show, "one rollout, and a contact sheet of its frames and actions", _sheet),
    "stats": (stats, "rollouts, steps, bytes; by task, outcome and exploration; which rollouts taught most"),
    "plot": (plot, "success by day and task, growth, and a map of what was seen, as a figure", _where, _figure),
    "shadow": (shadow, "what correction would have changed, had it not run in shadow"),
    "verify": (verify, "read every byte and name what is not as it was written"),
    "forget": (forget, "remove rollouts for good", _where, _consent),
    "merge": (merge, "add the rollouts of other banks of the same projection", _sources),
    "export": (export, "write rollouts as a LeRobotDataset", _dataset, _where, _rate),
    "import": (import_, "add the episodes of a LeRobotDataset or of a rosbag2", _source, _policy, _teleoperation),
    "rebuild": (rebuild, "make a lost or damaged catalogue anew out of the payloads"),
    "migrate": (migrate, "make a bank of an earlier format one of the present format, in place", _skip),
}
