# SPDX-License-Identifier: MIT
"""The state of a LIBERO simulation as its experts read it: the hand, and bodies, sites and collision shapes by name.

Positions are in metres in the world's frame: z up, x away from the robot's base, y to its left. A frame of the hand is
(3, 3) with the columns finger axis (right to left finger), side, approach (out of the palm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

if TYPE_CHECKING:
    from libero.libero.envs.bddl_base_domain import BDDLBaseDomain

LEFT_RIGHT = ("left", "right")
WIDE_M = 0.07  # opening from which the gripper counts as open
DRAWER_FRONT_M = 0.035  # from the middle of a drawer to where objects go in: its rear stays under the cabinet's top
PATH_POINTS = 16  # of a straight path, at which obstacles are searched


class LiberoScene:
    """The state of one built LIBERO environment.

    Attributes:
        model: Of MuJoCo.
        data: Of MuJoCo.
        finger_dofs: Indices of the fingers' speeds in `data.qvel`.
    """

    def __init__(self, env: BDDLBaseDomain) -> None:
        """Look up what does not change.

        Args:
            env: LIBERO's own environment, after its first reset.
        """
        assert env.sim is not None  # the reset made it
        self._env, robot = env, env.robots[0]
        self.model, self.data = env.sim.model._model, env.sim.data._data
        model = self.model
        roots = [model.body(model.body_rootid[body]).name for body in model.geom_bodyid]
        fixed = ("world", "table", robot.robot_model.root_body, "mount0_base")
        solid = [g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]]
        self._solid = np.array([g for g in solid if roots[g] not in fixed])
        self._root = np.array(roots)[self._solid]
        geoms = robot.gripper.important_geoms
        self._fingers = [np.array([model.geom(name).id for name in geoms[f"{side}_finger"]]) for side in LEFT_RIGHT]
        self._pads = [model.geom(geoms[f"{side}_fingerpad"][0]).id for side in LEFT_RIGHT]
        self._shoulder = model.body(robot.robot_model.naming_prefix + "link2").id
        self._site = robot.eef_site_id
        self._finger_joints = [model.joint(name).qposadr[0] for name in robot.gripper.joints]
        self.finger_dofs = [model.joint(name).dofadr[0] for name in robot.gripper.joints]

    def update(self) -> None:
        """Compute positions and contacts, which lag one step behind the simulation."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_collision(self.model, self.data)

    # The task

    @property
    def goal(self) -> list[str]:
        """Predicate of the task's first goal, then the names that it is about."""
        return self._env.parsed_problem["goal_state"][0]

    @property
    def success(self) -> bool:
        """Whether the task has succeeded."""
        return self._env._check_success()

    # The hand

    @property
    def hand(self) -> np.ndarray:
        """Point between the finger pads, (3,)."""
        return self.data.site_xpos[self._site]

    @property
    def approach(self) -> np.ndarray:
        """Unit vector out of the palm, (3,)."""
        return self.data.site_xmat[self._site].reshape(3, 3)[:, 2]

    @property
    def finger_axis(self) -> np.ndarray:
        """Unit vector from the right to the left finger, (3,)."""
        axes = self.data.site_xmat[self._site].reshape(3, 3)
        left, right = (self.data.geom_xpos[pad] for pad in self._pads)
        along = int(np.argmax(np.abs(axes.T @ (left - right))[:2]))
        return axes[:, along] * np.sign(axes[:, along] @ (left - right))

    @property
    def opening(self) -> float:
        """Distance between the finger pads."""
        return float(np.abs(self.data.qpos[self._finger_joints]).sum())

    @property
    def shoulder(self) -> np.ndarray:
        """Position of the arm's shoulder, (3,)."""
        return self.data.xpos[self._shoulder]

    # Objects, fixtures and sites

    def position(self, name: str) -> np.ndarray:
        """Return the position of an object, (3,)."""
        return self.data.xpos[self._env.obj_body_id[name]]

    def fixture_joint(self, name: str) -> Any:
        """Return MuJoCo's view of the joint of a fixture, such as the knob of a stove."""
        return self.model.joint(self._env.fixtures_dict[name].joints[0])

    def region_joint(self, region: str) -> Any:
        """Return MuJoCo's view of the joint that moves a region, such as a drawer."""
        return self.model.joint(self._env.object_sites_dict[region].joints[0])

    def shapes(self, name: str) -> np.ndarray:
        """Return the collision shapes of an object or site, int (n,)."""
        return self._solid[self._root == self._root_of(name)]

    def shapes_of_body(self, body: int) -> np.ndarray:
        """Return the collision shapes of one body, int (n,)."""
        return self._solid[self.model.geom_bodyid[self._solid] == body]

    def handle(self, region: str) -> int:
        """Return the shape of a drawer that stands out farthest."""
        shapes = self.shapes_of_body(self.model.site_bodyid[self.model.site(region).id])
        out = self.data.xaxis[self.region_joint(region).id]
        return int(shapes[np.argmin(self.data.geom_xpos[shapes] @ out)])

    def place(self, name: str) -> np.ndarray:
        """Return where the middle of an object's lower side is to go for an object or site, (3,)."""
        if name not in self._env.object_sites_dict:
            return np.append(self.position(name)[:2], self.box(name)[0][2])
        site = self.model.site(name).id
        spot, rotation = self.data.site_xpos[site].copy(), self.data.site_xmat[site].reshape(3, 3)
        if self._env.object_sites_dict[name].joints:
            spot -= DRAWER_FRONT_M * self.data.xaxis[self.region_joint(name).id]
        spot[2] = max(spot[2] - np.abs(rotation[2]) @ self.model.site_size[site], self._env.workspace_offset[2])
        return spot

    # Boxes around collision shapes

    def boxes(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lowest and highest corners (n, 3) of boxes along the world's axes."""
        rotation = self.data.geom_xmat[shapes].reshape(-1, 3, 3)
        aabb = self.model.geom_aabb[shapes]
        centre = self.data.geom_xpos[shapes] + np.einsum("gij,gj->gi", rotation, aabb[:, :3])
        half = np.einsum("gij,gj->gi", np.abs(rotation), aabb[:, 3:])
        return centre - half, centre + half

    def box(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return lowest and highest corner (3,) of the box around a whole object."""
        low, high = self.boxes(self.shapes(name))
        return low.min(0), high.max(0)

    def width(self, shapes: np.ndarray, axis: np.ndarray) -> float:
        """Return the extent of shapes along an axis (3,)."""
        rotation = self.data.geom_xmat[shapes].reshape(-1, 3, 3)
        middle = self.data.geom_xpos[shapes] @ axis
        half = np.einsum(
            "gj,gj->g", np.abs(np.einsum("gij,i->gj", rotation, axis)), self.model.geom_aabb[shapes][:, 3:]
        )
        return float((middle + half).max() - (middle - half).min())

    def distances(self, points: np.ndarray, without: str) -> np.ndarray:
        """Return the distances (n, p) of points (p, 3) from all n shapes but those of one object."""
        others = self._solid[self._root != self._root_of(without)]
        rotation = self.data.geom_xmat[others].reshape(-1, 3, 3)
        centre, half = self.model.geom_aabb[others][:, None, :3], self.model.geom_aabb[others][:, None, 3:]
        local = np.einsum("gji,gpj->gpi", rotation, points - self.data.geom_xpos[others][:, None])
        return np.linalg.norm(np.maximum(np.abs(local - centre) - half, 0.0), axis=-1)

    def highest_along(self, start: np.ndarray, end: np.ndarray, radius: float, without: str | None) -> float:
        """Return the height of the highest shape within `radius` of the path between two points (2,)."""
        shapes = self._solid if without is None else self._solid[self._root != self._root_of(without)]
        low, high = self.boxes(shapes)
        points = start + np.linspace(0.0, 1.0, PATH_POINTS)[:, None, None] * (end - start)
        gap = np.maximum(np.maximum(low[:, :2] - points, points - high[:, :2]), 0.0)
        near = (np.linalg.norm(gap, axis=-1) < radius).any(0)
        return float(max(high[near, 2].max(initial=-np.inf), self._env.workspace_offset[2]))

    # Contacts

    def touches(self, first: np.ndarray, second: np.ndarray) -> bool:
        """Return whether any of some shapes touches any of others."""
        pairs = self.data.contact.geom[: self.data.ncon]
        one, other = np.isin(pairs, first), np.isin(pairs, second)
        return bool(((one[:, 0] & other[:, 1]) | (one[:, 1] & other[:, 0])).any())

    def holds(self, shapes: np.ndarray) -> bool:
        """Return whether both fingers touch any of these shapes while the gripper is not wide open."""
        return self.opening < WIDE_M and all(self.touches(finger, shapes) for finger in self._fingers)

    def _root_of(self, name: str) -> str:
        if name in self._env.object_sites_dict:
            name = self._env.object_states_dict[name].parent_name
        found = self._env.get_object(name)
        return "table" if found is None else found.root_body
