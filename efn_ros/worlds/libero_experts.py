"""Scripted experts for LIBERO's tasks: what to do next, from the simulator's present state alone.

An expert remembers nothing, so it can be asked in any state that a student has led to. What to do follows from the
task's goal predicate; where, from the simulator's own bodies, sites and collision shapes, by name. Positions are in
metres in the world's frame: z up, x away from the robot's base, y to its left. A frame of the hand is (3, 3) with
columns finger axis (right to left finger), side, approach (out of the palm).
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

# The arm and its controller.
FULL_TRANSLATION_M, FULL_ROTATION_RAD = 0.05, 0.5  # how far ahead a full action puts the controller's goal
GAIN = 2.0  # of the controller's goal over what is left to go: it lags, and this is where it does not overshoot yet
DOWN = np.array([0.0, 0.0, -1.0])
HOME_AXIS = np.array([0.17, -0.98, 0.0])  # finger axis of the rest pose, a little turned so that no quarter turn ties
OPEN, CLOSE = -1.0, 1.0
WRIST_BACK_M, WRIST_UP_M = 0.088, 0.203  # from the gripper of a hand that points down to the arm's last but one joint
REACH_M = 0.62  # from shoulder to wrist; farther, the arm straightens into its joint limit, so the hand leans instead
NEAR_M = 0.42  # from shoulder to wrist; nearer, the folded arm drifts
MAX_LEAN_RAD = 0.6
# The gripper, from the point between its pads.
FINGERTIP_M = 0.013  # to the fingers' ends
PALM_M = 0.021  # to the palm, less some air
HAND_SHAPE_M = (  # balls around a hand and what it passes on its way down: along the finger axis, upwards, radius
    *((along, height, 0.014) for along in (-0.054, 0.054) for height in (0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18)),
    *((along, height, 0.03) for along in (-0.07, 0.0, 0.07) for height in (0.06, 0.1, 0.14, 0.18)),
    *((0.0, height, 0.055) for height in (0.2, 0.25)),
)
HAND_RADIUS_M = 0.06
SPAN_M = 0.065  # the widest thing that goes between the fingers
WIDE_M = 0.07  # opening from which the gripper counts as open
STILL_M_PER_S = 0.02  # speed of a finger under which it has closed on something
EMPTY_M = 0.003  # opening under which there is nothing between the fingers
# How to travel.
CLEARANCE_M = 0.02  # between what moves and what it passes over
ALIGNED_M = 0.006  # across the way: near enough to go all the way down
FUNNEL_SLOPE = 4.0  # metres that the hand stays higher for each metre that it is off
RISE_M = 0.04  # so much too low, it only rises
TURN_M_PER_RAD = 0.04  # what an angle that is left to turn counts as
# How to grasp and place.
INSET_M = 0.008  # a rim is grasped so much inside of its middle: the outer finger needs less room
REACHED_M = 0.01  # from a grasp: near enough to close
KEPT_M = 0.03  # from a grasp, with fingers on their way: near enough to go on closing
FREE_M = 0.02  # more room than this around a finger is no better
TURN_COST_M_PER_RAD, WAY_COST = 0.004, 0.05  # of turning and of going there, against room
STRAIN_COST = 0.3  # of a wrist so much too far or too near, against room
COLLISION_COST = 5.0  # of lacking room, against turning and stretching
PLACED_M = 0.012  # from the middle of the place: near enough to let go
DROP_M = 0.008  # height from which things are dropped
# Drawers.
DRAWER_OPEN_M = 0.152  # how far it is pulled to be open
DRAWER_ENOUGH_M, DRAWER_LEFT_M = 0.09, 0.075  # how far for things to go in, and how far it may be pushed back
DRAWER_FRONT_M = 0.035  # from a drawer's middle to where things go in: its rear stays under the cabinet's top
STANDOFF_M = 0.08  # before a handle


@dataclass(frozen=True)
class Grasp:
    """Where to close the gripper: the point between its pads, and its finger axis, both (3,)."""

    point: np.ndarray
    axis: np.ndarray


def _frame(axis: np.ndarray, approach: np.ndarray) -> np.ndarray:
    return np.column_stack([axis, np.cross(approach, axis), approach])


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


class LiberoExpert:
    """The expert of one built LIBERO environment."""

    def __init__(self, env) -> None:
        """env: LIBERO's own environment, after its first reset."""
        self._env = env
        self._model, self._data = env.sim.model._model, env.sim.data._data
        model = self._model
        roots = [model.body(model.body_rootid[body]).name for body in model.geom_bodyid]
        fixed = ("world", "table", env.robots[0].robot_model.root_body, "mount0_base")
        solid = [g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]]
        self._solid = np.array([g for g in solid if roots[g] not in fixed])
        self._root = np.array(roots)[self._solid]
        gripper = env.robots[0].gripper
        self._fingers = [
            np.array([model.geom(name).id for name in gripper.important_geoms[f"{side}_finger"]])
            for side in ("left", "right")
        ]
        self._pads = [model.geom(gripper.important_geoms[f"{side}_fingerpad"][0]).id for side in ("left", "right")]
        self._shoulder = model.body(env.robots[0].robot_model.naming_prefix + "link2").id
        self._site = env.robots[0].eef_site_id
        self._finger_joints = [model.joint(name).qposadr[0] for name in gripper.joints]
        self._finger_speeds = [model.joint(name).dofadr[0] for name in gripper.joints]

    def act(self) -> np.ndarray:
        """float32 (7,): the action in the present state. Raises NotImplementedError for a goal it knows no way to."""
        mujoco.mj_kinematics(self._model, self._data)  # positions and contacts lag behind by a step of the simulation
        mujoco.mj_collision(self._model, self._data)
        predicate, *names = self._env.parsed_problem["goal_state"][0]
        if predicate == "turnon":
            return self._turn_on(*names)
        if predicate == "open":
            return self._open(*names)
        if predicate == "in":
            opening = self._open(names[1], then_leave=True)
            return self._bring(*names) if opening is None else opening
        if predicate == "on":
            return self._bring(*names)
        raise NotImplementedError(f"no expert for the goal {predicate!r}")

    def landmarks(self) -> np.ndarray:
        """(3, 3) metres: the hand, what it is to take first, and where that is to go."""
        predicate, *names = self._env.parsed_problem["goal_state"][0]
        if predicate == "turnon":
            knob = self._model.joint(self._env.fixtures_dict[names[0]].joints[0]).id
            return np.stack([self._hand, self._data.xanchor[knob], self._data.xanchor[knob]])
        if predicate == "open":
            handle = self._data.geom_xpos[self._handle(names[0])]
            return np.stack([self._hand, handle, handle])
        return np.stack([self._hand, self._position(names[0]), self._spot(names[1])])

    # Skills

    def _bring(self, name: str, place: str) -> np.ndarray:
        """Pick up an object and put it on or into `place`, an object or a site."""
        spot = self._spot(place)
        if self._env._check_success():
            return self._command(np.array([0.0, 0.0, 0.0 if self._holds(name) else CLEARANCE_M]), None, OPEN)
        if self._holds(name):
            low, _ = self._box(name)
            to_go = np.append((spot - self._position(name))[:2], spot[2] - low[2])
            if np.linalg.norm(to_go[:2]) < PLACED_M and (to_go[2] > -DROP_M or self._touch(name, place)):
                return self._command(np.zeros(3), None, OPEN)
            if np.abs(self._data.qvel[self._finger_speeds]).max() > STILL_M_PER_S:
                return self._command(np.zeros(3), None, CLOSE)
            goal = self._hand + to_go
            return self._travel(goal, self._level(self._finger_axis, goal), CLOSE, carried=name)
        return self._fetch(self._grasp(name, spot))

    def _fetch(self, grasp: Grasp) -> np.ndarray:
        """Go to a grasp from above and close."""
        frame, opening = self._level(grasp.axis, grasp.point), self._opening
        off = np.linalg.norm(grasp.point - self._hand) + TURN_M_PER_RAD * np.linalg.norm(self._turn(frame))
        if off < (REACHED_M if opening > WIDE_M else KEPT_M) and opening > EMPTY_M:
            return self._command((grasp.point - self._hand) * (0.0, 0.0, 1.0), frame, CLOSE)
        return self._travel(grasp.point, frame, OPEN)

    def _open(self, region: str, then_leave: bool = False) -> np.ndarray | None:
        """Pull a drawer open by its handle. With `then_leave`: None once it is open and the hand is free of it."""
        joint = self._model.joint(self._env.object_sites_dict[region].joints[0])
        out = -self._data.xaxis[joint.id]
        travel = -self._data.qpos[joint.qposadr[0]]
        handle = self._handle(region)
        bar = self._data.geom_xpos[handle]
        frame = _frame(np.array([0.0, 0.0, np.sign(self._finger_axis[2]) or 1.0]), -out)
        offset = self._hand - bar
        depth = offset @ out
        across = offset - depth * out
        off = np.linalg.norm(across) + TURN_M_PER_RAD * np.linalg.norm(self._turn(frame))
        holds = self._between([handle])
        enough = (DRAWER_ENOUGH_M if holds else DRAWER_LEFT_M) if then_leave else DRAWER_OPEN_M
        if travel > enough:
            ahead = self._approach @ -out > np.sqrt(0.5)
            if holds or (ahead and depth < STANDOFF_M and np.linalg.norm(across) < HAND_RADIUS_M):
                back = self._data.xpos[self._shoulder] - self._hand
                return self._command(STANDOFF_M * (out + back / np.linalg.norm(back)), None, OPEN)
            return None if then_leave else self._command(np.zeros(3), None, OPEN)
        if holds:
            return self._command(out * FULL_TRANSLATION_M - across, frame, CLOSE)
        near = REACHED_M if self._opening > WIDE_M else KEPT_M
        if max(off, abs(depth)) < near and self._opening > EMPTY_M:
            return self._command(-across - depth * out, frame, CLOSE)
        goal = min(STANDOFF_M, FUNNEL_SLOPE * max(off - ALIGNED_M, 0.0))
        return self._command(-across + (goal - depth) * out, frame, OPEN)

    def _turn_on(self, stove: str) -> np.ndarray:
        """Grasp the grip of a knob and turn it."""
        joint = self._model.joint(self._env.fixtures_dict[stove].joints[0])
        shapes = self._shapes_of(joint.bodyid[0])
        low, high = self._boxes(shapes)
        grip = shapes[np.argmax(high[:, 2])]
        rotation, half = self._data.geom_xmat[grip].reshape(3, 3), self._model.geom_aabb[grip][3:]
        level = np.flatnonzero(np.abs(rotation[2]) < np.sqrt(0.5))
        across = rotation[:, level[np.argmin(half[level])]]
        point = np.append(self._data.xanchor[joint.id][:2], high[:, 2].max() - PALM_M)
        if self._env._check_success():
            return self._command(np.array([0.0, 0.0, CLEARANCE_M]), None, OPEN)
        if self._between(shapes):
            turned = np.cross(self._data.xaxis[joint.id], across) * np.tan(FULL_ROTATION_RAD) + across
            return self._command(point - self._hand, self._level(turned, point), CLOSE)
        return self._fetch(Grasp(point, across))

    # Where to grasp and where to put

    def _grasp(self, name: str, spot: np.ndarray) -> Grasp:
        """Across the whole thing where it is narrow enough, else across its rim, on the side with the most room, both
        here and at `spot`."""
        shapes = self._shapes(name)
        low, high = self._boxes(shapes)
        bottom, top = low[:, 2].min(), high[:, 2].max()
        height = max(top - PALM_M, bottom + FINGERTIP_M)
        level = (low[:, 2] <= height) & (high[:, 2] >= height)
        middle = np.append((low[level].min(0) + high[level].max(0))[:2] / 2, height)
        angles = np.arange(8) * np.pi / 4
        sides = [np.array([np.sin(angle), -np.cos(angle), 0.0]) for angle in angles]
        width = [self._width(shapes[level], side) for side in sides]
        narrow = [i for i in range(4) if width[i] < SPAN_M]
        if narrow:
            return Grasp(middle, sides[min(narrow, key=lambda i: self._turning(sides[i]))])
        radius = np.linalg.norm(((low + high)[level] / 2 - middle)[:, :2], axis=1).mean() - INSET_M
        there = np.append(spot[:2], spot[2] + height - bottom)

        def worth(side: np.ndarray) -> float:
            room = min(self._room(at + radius * side, side, name) for at in (middle, there))
            way = np.linalg.norm((middle + radius * side - self._hand)[:2])
            reach = [self._far(at + radius * side)[0] for at in (middle, there)]
            strain = sum(max(far, NEAR_M - REACH_M - far, 0.0) for far in reach)
            room = min(room, FREE_M) * (1.0 if room > 0.0 else COLLISION_COST)
            return room - TURN_COST_M_PER_RAD * self._turning(side) - WAY_COST * way - STRAIN_COST * strain

        side = max(sides, key=worth)
        return Grasp(middle + radius * side, side)

    def _room(self, point: np.ndarray, side: np.ndarray, name: str) -> float:
        """Metres between a hand that points down at `point`, one finger to `side`, and the nearest other thing."""
        along, height, radius = np.array(HAND_SHAPE_M).T
        probes = point + along[:, None] * side - height[:, None] * DOWN
        others = self._solid[self._root != self._root_of(name)]
        rotation = self._data.geom_xmat[others].reshape(-1, 3, 3)
        centre, half = self._model.geom_aabb[others][:, None, :3], self._model.geom_aabb[others][:, None, 3:]
        local = np.einsum("gji,gpj->gpi", rotation, probes - self._data.geom_xpos[others][:, None])
        gap = np.maximum(np.abs(local - centre) - half, 0.0)
        return float((np.linalg.norm(gap, axis=-1) - radius).min())

    def _spot(self, place: str) -> np.ndarray:
        """Where the middle of a thing's lower side is to go, (3,)."""
        if place in self._env.object_sites_dict:
            site = self._model.site(place).id
            spot, rotation = self._data.site_xpos[site].copy(), self._data.site_xmat[site].reshape(3, 3)
            joints = self._env.object_sites_dict[place].joints
            if joints:
                spot -= DRAWER_FRONT_M * self._data.xaxis[self._model.joint(joints[0]).id]
            spot[2] = max(spot[2] - np.abs(rotation[2]) @ self._model.site_size[site], self._env.workspace_offset[2])
            return spot
        low, _ = self._box(place)
        return np.append(self._position(place)[:2], low[2])

    # Motion

    def _travel(self, goal: np.ndarray, frame: np.ndarray, gripper: float, carried: str | None = None) -> np.ndarray:
        """Towards a goal of the hand: up over what lies on the way, across, and down at its end."""
        to_go, below, radius, start = goal - self._hand, FINGERTIP_M, HAND_RADIUS_M, self._hand
        if carried:
            low, high = self._box(carried)
            below, radius, start = max(below, self._hand[2] - low[2]), max((high - low)[:2]) / 2, (low + high) / 2
        clear = self._top_along(start[:2], (start + to_go)[:2], radius + CLEARANCE_M / 2, carried) + below + CLEARANCE_M
        off = np.linalg.norm(to_go[:2]) + TURN_M_PER_RAD * np.linalg.norm(self._turn(frame))
        height = goal[2] + np.clip(FUNNEL_SLOPE * (off - ALIGNED_M), 0.0, max(clear - goal[2], 0.0))
        to_go[2] = height - self._hand[2]
        to_go[:2] *= np.clip(1.0 - (to_go[2] - CLEARANCE_M / 2) / RISE_M, 0.0, 1.0)
        return self._command(to_go, frame, gripper)

    def _command(self, to_go: np.ndarray, frame: np.ndarray | None, gripper: float) -> np.ndarray:
        """The action (7,) that moves the hand by `to_go` (3,) and into `frame`, as far as one step goes."""
        translation = GAIN * to_go / FULL_TRANSLATION_M
        rotation = np.zeros(3) if frame is None else GAIN * self._turn(frame) / FULL_ROTATION_RAD
        parts = (part / max(1.0, np.abs(part).max()) for part in (translation, rotation))
        return np.concatenate([*parts, [gripper]]).astype(np.float32)

    def _level(self, axis: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The frame of a hand on its way to `goal` (3,) with its finger axis level, along `axis` or its reverse, as the
        arm likes; it points down, and across its finger axis it leans outwards where the way is far."""
        axis = np.array([axis[0], axis[1], 0.0]) / np.linalg.norm(axis[:2])
        far, outwards = max((self._far(point) for point in (self._hand, goal)), key=lambda far: far[0])
        lean = np.tan(np.clip(far / WRIST_UP_M, 0.0, MAX_LEAN_RAD)) * (outwards - outwards @ axis * axis)
        return _frame(axis if axis @ HOME_AXIS > 0 else -axis, (DOWN + lean) / np.linalg.norm(DOWN + lean))

    def _far(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        """Metres by which a hand that points down at `at` (3,) is too far from the shoulder, and the way out (3,)."""
        away = at - self._data.xpos[self._shoulder]
        outwards = np.append(away[:2], 0.0) / np.linalg.norm(away[:2])
        return float(np.linalg.norm(away - WRIST_BACK_M * outwards - WRIST_UP_M * DOWN)) - REACH_M, outwards

    def _turn(self, frame: np.ndarray) -> np.ndarray:
        """Rotation vector (3,) in radians, in the world's frame, from the hand's present frame to another."""
        return _rotation_vector(frame @ _frame(self._finger_axis, self._approach).T)

    # State

    @property
    def _hand(self) -> np.ndarray:
        return self._data.site_xpos[self._site]

    @property
    def _approach(self) -> np.ndarray:
        return self._data.site_xmat[self._site].reshape(3, 3)[:, 2]

    @property
    def _finger_axis(self) -> np.ndarray:
        axes = self._data.site_xmat[self._site].reshape(3, 3)
        left, right = (self._data.geom_xpos[pad] for pad in self._pads)
        along = int(np.argmax(np.abs(axes.T @ (left - right))[:2]))
        return axes[:, along] * np.sign(axes[:, along] @ (left - right))

    @property
    def _opening(self) -> float:
        """Metres between the pads."""
        return float(np.abs(self._data.qpos[self._finger_joints]).sum())

    @staticmethod
    def _turning(axis: np.ndarray) -> float:
        """Radians between a finger axis, or its reverse, and that of the rest pose."""
        return float(np.arccos(min(1.0, abs(axis @ HOME_AXIS) / np.linalg.norm(HOME_AXIS))))

    def _root_of(self, name: str) -> str:
        if name in self._env.object_sites_dict:
            name = self._env.object_states_dict[name].parent_name
        thing = self._env.get_object(name)
        return "table" if thing is None else thing.root_body

    def _shapes(self, name: str) -> np.ndarray:
        return self._solid[self._root == self._root_of(name)]

    def _shapes_of(self, body: int) -> np.ndarray:
        return self._solid[self._model.geom_bodyid[self._solid] == body]

    def _position(self, name: str) -> np.ndarray:
        return self._data.xpos[self._env.obj_body_id[name]]

    def _handle(self, region: str) -> int:
        """The shape of a drawer that stands out farthest."""
        joint = self._model.joint(self._env.object_sites_dict[region].joints[0])
        shapes = self._shapes_of(self._model.site_bodyid[self._model.site(region).id])
        return int(shapes[np.argmin(self._data.geom_xpos[shapes] @ self._data.xaxis[joint.id])])

    def _boxes(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corners (n, 3) of the boxes around collision shapes, along the world's axes."""
        rotation = self._data.geom_xmat[shapes].reshape(-1, 3, 3)
        aabb = self._model.geom_aabb[shapes]
        centre = self._data.geom_xpos[shapes] + np.einsum("gij,gj->gi", rotation, aabb[:, :3])
        half = np.einsum("gij,gj->gi", np.abs(rotation), aabb[:, 3:])
        return centre - half, centre + half

    def _box(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._boxes(self._shapes(name))
        return low.min(0), high.max(0)

    def _width(self, shapes: np.ndarray, axis: np.ndarray) -> float:
        rotation = self._data.geom_xmat[shapes].reshape(-1, 3, 3)
        middle = self._data.geom_xpos[shapes] @ axis
        half = np.einsum(
            "gj,gj->g", np.abs(np.einsum("gij,i->gj", rotation, axis)), self._model.geom_aabb[shapes][:, 3:]
        )
        return float((middle + half).max() - (middle - half).min())

    def _top_along(self, start: np.ndarray, end: np.ndarray, radius: float, without: str | None) -> float:
        """Height of the highest thing within `radius` of the way from start to end, both (2,)."""
        shapes = self._solid if without is None else self._solid[self._root != self._root_of(without)]
        low, high = self._boxes(shapes)
        points = start + np.linspace(0.0, 1.0, 16)[:, None, None] * (end - start)
        gap = np.maximum(np.maximum(low[:, :2] - points, points - high[:, :2]), 0.0)
        near = (np.linalg.norm(gap, axis=-1) < radius).any(0)
        return float(max(high[near, 2].max(initial=-np.inf), self._env.workspace_offset[2]))

    def _touches(self, ours, theirs) -> bool:
        pairs = self._data.contact.geom[: self._data.ncon]
        one, other = np.isin(pairs, ours), np.isin(pairs, theirs)
        return bool(((one[:, 0] & other[:, 1]) | (one[:, 1] & other[:, 0])).any())

    def _touch(self, name: str, place: str) -> bool:
        return self._touches(self._shapes(name), self._shapes(place))

    def _holds(self, name: str) -> bool:
        return self._between(self._shapes(name))

    def _between(self, shapes) -> bool:
        """Whether both fingers touch any of these, on their way from wide open."""
        return self._opening < WIDE_M and all(self._touches(finger, shapes) for finger in self._fingers)
