# SPDX-License-Identifier: MIT
"""Discovery range of the nodes: this machine alone, unless the environment sets another one."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from rclpy.utilities import get_rmw_implementation_identifier

RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
LOCALHOST, AS_PROFILE = "LOCALHOST", "SYSTEM_DEFAULT"
DEPRECATED = "ROS_LOCALHOST_ONLY"  # of Humble; in later versions it would overrule the range
PEERS = ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER")  # name other machines
PROFILES_FILE = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # of Fast DDS from 3.0 on, before
LOOPBACK, NETWORK = (str(Path(__file__).resolve().with_name(f"fastdds_{name}.xml")) for name in ("loopback", "network"))


def configure(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit discovery to this machine if no range is set; to be called before rclpy.init.

    With the range LOCALHOST ROS 2 does not search beyond this machine, but its sockets accept messages from every
    other one. A profile of Fast DDS therefore binds them to the loopback interface. A profile that is set stays.
    """
    chosen = environment.setdefault(RANGE, LOCALHOST)
    if "fastrtps" not in get_rmw_implementation_identifier() or any(name in environment for name in PROFILES_FILE):
        return
    local = chosen == LOCALHOST or environment.get(DEPRECATED) == "1"
    local = local and not any(environment.get(name) for name in PEERS)
    if local:
        environment[RANGE] = AS_PROFILE
        environment.pop(DEPRECATED, None)
    environment.update(dict.fromkeys(PROFILES_FILE, LOOPBACK if local else NETWORK))
