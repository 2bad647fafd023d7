# SPDX-License-Identifier: MIT
"""Access rights in a graph: the SROS2 policy of what its nodes really create, and keys for it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from efn_ros.commands.bringup import add_graph_arguments, graph_name
from efn_ros.runtime.graph import graphs

USAGE = """{count} enclaves in {keystore}, for ROS domain {domain}. A graph with them, and an operator's tool:

  export ROS_SECURITY_KEYSTORE={keystore} ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce
  ./efn bringup ...
  ROS_SECURITY_ENCLAVE_OVERRIDE={operator} ./efn topics

{keystore}/private makes further keys: keep it elsewhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    what = "write the policy of a graph, out of what its nodes create"
    policy = commands.add_parser("policy", help=what, description=what)
    add_graph_arguments(policy)
    policy.add_argument("--out", type=Path, metavar="FILE", help="default: config/security/<graph>.policy.xml")
    policy.add_argument("--check", action="store_true", help="change nothing; fail where the file is out of date")
    what = "make or renew the keys of every enclave of a policy, with sros2"
    keys = commands.add_parser("keys", help=what, description=what)
    keys.add_argument("policy", help="a graph whose policy comes with the package, or a file")
    keys.add_argument("keystore", type=Path, metavar="DIRECTORY", help="where the keys go")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from efn_ros.ros import discovery

    discovery.configure()
    try:
        return write_policy(args) if args.action == "policy" else make_keys(args)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"efn security {args.action}: {error}", file=sys.stderr)
        return 2


def write_policy(args: argparse.Namespace) -> int:
    """Write, or check, the policy of a graph."""
    from efn_ros.commands._sros2 import policy, policy_file

    if args.out is None and (args.dry_run or args.params_file or args.namespace != "efn"):
        raise ValueError("this is not the graph as it comes: name a file with --out")
    path = args.out or policy_file(args.graph)
    text = policy(graph_name(args), args.params_file, args.namespace)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    if args.check:
        print(f"{path} differs from what the nodes create: run ./efn security policy {args.graph}")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return 0


def make_keys(args: argparse.Namespace) -> int:
    """Make the keys of a policy."""
    from efn_ros.commands import _sros2

    path = _sros2.policy_file(args.policy) if args.policy in graphs() else Path(args.policy)
    keystore = args.keystore.expanduser().resolve()
    names = _sros2.make_keys(path, keystore)
    (operator,) = (name for name in names if name.endswith(f"/{_sros2.OPERATOR}"))
    domain = os.environ.get(_sros2.DOMAIN, "0")
    print(USAGE.format(count=len(names), keystore=keystore, domain=domain, operator=operator))
    return 0
