"""Quality of service after REP-2003: sensor data in, reliable steps and actions, latched state."""

from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy


def _profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        depth=depth,
        history=QoSHistoryPolicy.KEEP_LAST,
        reliability=QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
    )


SENSOR_DATA = _profile(5, reliable=False)  # images and joint states of a robot
LOSSLESS_SENSOR_DATA = _profile(5)  # of a world in lockstep, which waits for each
STEPS = _profile(10)  # observation, policy step, corrected action
LATCHED = _profile(1, latched=True)  # the present episode, the bank's revision
EVENTS = _profile(50)
