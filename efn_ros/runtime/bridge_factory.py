"""From parameters to the parts of a robot's bridge."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from efn_ros.runtime.factory import Parameters

if TYPE_CHECKING:
    from efn_ros.robots.bridge import Bridge
    from efn_ros.robots.description import Gripper
    from efn_ros.robots.workspace import Workspace


def make_bridge(p: Parameters) -> tuple[Bridge, list[Gripper]]:
    """Of a robot's bridge, and its grippers. A limit of one entry stands for every joint. Raises ValueError for
    parameters that do not fit each other."""
    from efn_ros.robots.bridge import Bridge, Timeouts
    from efn_ros.robots.description import Gripper, Layout
    from efn_ros.robots.streaming import JointLimits, Stream

    def each(name: str) -> np.ndarray:
        values = np.asarray(p[f"joints.{name}"], np.float64)
        if len(values) not in (1, len(joints)):
            raise ValueError(f"joints.{name} has {len(values)} entries; there are {len(joints)} joints")
        return np.repeat(values, len(joints)) if len(values) == 1 else values

    def named(name: str) -> list:
        values = p[f"grippers.{name}"]
        if len(values) != len(names):
            raise ValueError(f"grippers.{name} has {len(values)} entries; there are {len(names)} grippers")
        return values

    joints, names = p["joints.names"], [name for name in p["grippers.names"] if name]
    entries = [entry for entry in p["action.grippers"] if entry >= 0]
    if len(set(joints)) != len(joints) or not all(joints):
        raise ValueError(f"joints.names is {joints}; each joint needs a name of its own")
    if len(p["action.joints"]) != len(joints) or len(entries) != len(names):
        raise ValueError(
            f"an action has {len(p['action.joints'])} joints and {len(entries)} grippers; the robot has {len(joints)} "
            f"and {len(names)}"
        )
    limits = {field.name: each(field.name) for field in fields(JointLimits)}
    for name in ("velocity", "acceleration", "jerk"):
        limits[name] = limits[name] * p["speed_scale"]
    workspace = make_workspace(p)
    if workspace:
        workspace.inside(np.zeros((1, len(joints))))  # refuses another number of joints
    stream = Stream(JointLimits(**limits), p["command_rate_hz"], workspace.inside if workspace else None)
    layout = Layout(p["action.joints"], entries, p["action.kind"])
    timeouts = Timeouts(**{name: p[f"timeouts.{name}"] for name in ("state_s", "action_s", "late_s", "stop_s")})
    grippers = [Gripper(*one) for one in zip(names, named("opened"), named("closed"), strict=True)] if names else []
    return Bridge(stream, layout, p["action_rate_hz"], timeouts), grippers


def make_workspace(p: Parameters) -> Workspace | None:
    """Of a robot's bridge; None where postures are not checked. Raises ValueError for a model that is not known."""
    from efn_ros.robots import agibot_g1
    from efn_ros.robots.workspace import Workspace

    if not p["workspace.model"]:
        if max(len(p["workspace.box"]), len(p["workspace.keep_out"])) > 1 or p["workspace.wrists_apart_m"]:
            raise ValueError("workspace has bounds but no model to check them with; name one in workspace.model")
        return None
    if p["workspace.model"] != "agibot_g1":
        raise ValueError(f"workspace.model is {p['workspace.model']!r}; there is 'agibot_g1'")
    box, keep_out = (list(p[f"workspace.{name}"]) for name in ("box", "keep_out"))
    return Workspace.create(
        agibot_g1.load_arms(),
        agibot_g1.WRISTS,
        box=box if len(box) > 1 else (),
        keep_out=keep_out if len(keep_out) > 1 else (),
        wrist_distance_m=p["workspace.wrists_apart_m"],
    )
