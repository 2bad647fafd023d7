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
# As these are published: whoever asks for it like this gets the last ones, also from before it was discovered.
KEPT_STEPS = _profile(64, latched=True)
EVERY_STEP = _profile(2000)  # for whoever must miss none even when busy
EVERY_KEPT_STEP = _profile(2000, latched=True)  # nor the first ones, although it has just come
LATCHED = _profile(1, latched=True)  # the present episode, the bank's revision
EVENTS = _profile(50)
