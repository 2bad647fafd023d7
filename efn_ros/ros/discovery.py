"""How far nodes hear and are heard: on this machine alone, unless the environment says otherwise."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from rclpy.utilities import get_rmw_implementation_identifier

RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
LOCALHOST, AS_PROFILE = "LOCALHOST", "SYSTEM_DEFAULT"
DEPRECATED = "ROS_LOCALHOST_ONLY"  # until Humble; later it would overrule the range
BEYOND = ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER")  # who names others wants to hear them
# As Fast DDS calls it from 3.0 on, and before.
PROFILES_FILE = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
LOOPBACK, NETWORK = (str(Path(__file__).resolve().with_name(f"fastdds_{name}.xml")) for name in ("loopback", "network"))


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Before rclpy.init, in a process that is ours: the range is LOCALHOST where none is set, and then Fast DDS takes
    what comes over the loopback interface alone.

    With that range ROS 2 does not look beyond this machine, but its sockets are open to every other one. So a profile
    does instead what ROS 2 would do, on the loopback interface. A profile that is named already stays.
    """
    reach = environment.setdefault(RANGE, LOCALHOST)
    if "fastrtps" not in get_rmw_implementation_identifier() or any(name in environment for name in PROFILES_FILE):
        return
    local = reach == LOCALHOST or environment.get(DEPRECATED) == "1"
    local = local and not any(environment.get(name) for name in BEYOND)
    if local:
        environment[RANGE] = AS_PROFILE
        environment.pop(DEPRECATED, None)
    environment.update(dict.fromkeys(PROFILES_FILE, LOOPBACK if local else NETWORK))
