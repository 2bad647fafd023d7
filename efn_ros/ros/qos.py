# SPDX-License-Identifier: MIT
"""Quality of service after REP 2003: sensor data best effort, steps and actions reliable, state latched."""

from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy


def _profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        depth=depth,
        history=QoSHistoryPolicy.KEEP_LAST,
        reliability=QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
    )


SENSOR_DATA = _profile(5, reliable=False)  # images and joint states of a robot
LOSSLESS_SENSOR_DATA = _profile(5)  # of a world in lockstep, which waits for each message
STEPS = _profile(10)  # observation, policy step, corrected action
LATCHED_STEPS = _profile(64, latched=True)  # with which these are published: a late subscriber can get the last ones
ALL_STEPS = _profile(2000)  # for a subscriber that must miss none, even when busy
ALL_LATCHED_STEPS = _profile(2000, latched=True)  # nor those published just before it subscribed
LATCHED = _profile(1, latched=True)  # the present episode, the bank's revision
EVENTS = _profile(50)
