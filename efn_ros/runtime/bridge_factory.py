# SPDX-License-Identifier: MIT
"""From the parameters of a robot's bridge to its parts."""

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
    """Build a bridge and its grippers; a limit of one entry is that of every joint.

    Raises:
        ValueError: Parameters do not fit each other.
    """
    from efn_ros.robots.bridge import Bridge
    from efn_ros.robots.description import Gripper, Layout, Timeouts
    from efn_ros.robots.streaming import JointLimits, Stream

    def joint_values(name: str) -> np.ndarray:
        values = np.asarray(p[f"joints.{name}"], np.float64)
        if len(values) not in (1, len(joints)):
            raise ValueError(f"joints.{name} has {len(values)} entries; the robot has {len(joints)} joints")
        return np.repeat(values, len(joints)) if len(values) == 1 else values

    def gripper_values(name: str) -> list[float]:
        values = p[f"grippers.{name}"]
        if len(values) != len(names):
            raise ValueError(f"grippers.{name} has {len(values)} entries; the robot has {len(names)} grippers")
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
    limits = {field.name: joint_values(field.name) for field in fields(JointLimits)}
    for name in ("velocity", "acceleration", "jerk"):
        limits[name] = limits[name] * p["speed_scale"]
    workspace = _make_workspace(p)
    if workspace:
        workspace.inside(np.zeros((1, len(joints))))  # refuses another number of joints
    stream = Stream(JointLimits(**limits), p["command_rate_hz"], workspace.inside if workspace else None)
    layout = Layout(p["action.joints"], entries, p["action.kind"])
    timeouts = Timeouts(**{name: p[f"timeouts.{name}"] for name in ("state_s", "action_s", "late_s", "stop_s")})
    ends = (gripper_values("opened"), gripper_values("closed")) if names else ([], [])
    grippers = [Gripper(*one) for one in zip(names, *ends, strict=True)]
    return Bridge(stream, layout, p["action_rate_hz"], timeouts), grippers


def _make_workspace(p: Parameters) -> Workspace | None:
    """Build the workspace of a bridge; None if postures are not checked.

    Raises:
        ValueError: The model is unknown, or bounds have no model.
    """
    from efn_ros.robots import agibot_g1
    from efn_ros.robots.workspace import Workspace

    if not p["workspace.model"]:
        if max(len(p["workspace.box"]), len(p["workspace.keep_out"])) > 1 or p["workspace.wrists_apart_m"]:
            raise ValueError("workspace has bounds but no model to check them with; name one in workspace.model")
        return None
    if p["workspace.model"] != "agibot_g1":
        raise ValueError(f"workspace.model is {p['workspace.model']!r}; choose 'agibot_g1', or leave it empty")
    box, keep_out = (list(p[f"workspace.{name}"]) for name in ("box", "keep_out"))
    return Workspace.create(
        agibot_g1.load_arms(),
        agibot_g1.WRISTS,
        box=box if len(box) > 1 else (),
        keep_out=keep_out if len(keep_out) > 1 else (),
        wrist_distance_m=p["workspace.wrists_apart_m"],
    )
