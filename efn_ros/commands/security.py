"""who may say what in a graph: the SROS2 policy of what its nodes really make, and keys for it"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from efn_ros.runtime.graph import dry_run, robots

USE = """{count} enclaves in {keystore}, for ROS domain {domain}. A graph with them, and an operator's tool:

  export ROS_SECURITY_KEYSTORE={keystore} ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce
  ./efn bringup ...
  ROS_SECURITY_ENCLAVE_OVERRIDE={operator} ./efn topics

{keystore}/private makes further keys: keep it elsewhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    what = "write the policy of a graph, out of what its nodes make"
    policy = commands.add_parser("policy", help=what, description=what)
    policy.add_argument("robot", choices=robots(), help="which config/<robot>.yaml")
    policy.add_argument("--params-file", type=Path, action="append", default=[], help="laid over the robot's own")
    policy.add_argument("--dry-run", action="store_true", help="of the graph with a simulated robot")
    policy.add_argument("--namespace", default="efn")
    policy.add_argument("--out", type=Path, metavar="FILE", help="default: config/security/<robot>.policy.xml")
    policy.add_argument("--check", action="store_true", help="change nothing; fail where the file is out of date")
    what = "make or renew the keys of every enclave of a policy, with sros2"
    keys = commands.add_parser("keys", help=what, description=what)
    keys.add_argument("policy", help="a robot whose policy comes with the package, or a file")
    keys.add_argument("keystore", type=Path, metavar="DIRECTORY", help="where the keys go")


def run(args: argparse.Namespace) -> int:
    from efn_ros.ros import discovery

    discovery.settle()
    try:
        return write(args) if args.action == "policy" else make_keys(args)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"efn security {args.action}: {error}", file=sys.stderr)
        return 2


def write(args: argparse.Namespace) -> int:
    from efn_ros.commands._sros2 import policy, policy_file

    overlays = [dry_run(args.robot), *args.params_file] if args.dry_run else args.params_file
    if args.out is None and (overlays or args.namespace != "efn"):
        raise ValueError("this is not the graph as it comes: name a file with --out")
    path = args.out or policy_file(args.robot)
    text = policy(args.robot, overlays, args.namespace)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    if args.check:
        print(f"{path} differs from what the nodes make: run ./efn security policy {args.robot}")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return 0


def make_keys(args: argparse.Namespace) -> int:
    import os

    from efn_ros.commands import _sros2 as security

    path = security.policy_file(args.policy) if args.policy in robots() else Path(args.policy)
    keystore = args.keystore.expanduser().resolve()
    names = security.make_keys(path, keystore)
    (operator,) = (name for name in names if name.endswith(f"/{security.OPERATOR}"))
    domain = os.environ.get(security.DOMAIN, "0")
    print(USE.format(count=len(names), keystore=keystore, domain=domain, operator=operator))
    return 0
