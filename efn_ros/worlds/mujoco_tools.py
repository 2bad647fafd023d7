# SPDX-License-Identifier: MIT
"""States, lights and images of a MuJoCo simulation, as the simulated worlds share them."""

from __future__ import annotations

import mujoco
import numpy as np

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# Each costs time, and a policy does without.
EFFECTS = [
    int(effect)
    for effect in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)
]


def get_state(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Return the state of a simulation, float64 (n,)."""
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def set_state(model: mujoco.MjModel, data: mujoco.MjData, state: np.ndarray) -> None:
    """Put a simulation into a state of `get_state`, and compute what follows from it."""
    mujoco.mj_setState(model, data, state, STATE)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, state, STATE)  # again, because mj_forward replaced the solver's warm start


def lights_of(model: mujoco.MjModel) -> list[np.ndarray]:
    """Return the colours of all lights, as views into a model."""
    headlight = model.vis.headlight
    return [model.light_diffuse, model.light_ambient, headlight.diffuse, headlight.ambient]


def render(
    renderer: mujoco.Renderer,
    data: mujoco.MjData,
    camera: str | mujoco.MjvCamera,
    option: mujoco.MjvOption | None = None,
) -> np.ndarray:
    """Return the image of a camera, uint8 (height, width, 3) RGB, without shadows, reflections and sky."""
    renderer.update_scene(data, camera, option)
    renderer.scene.flags[EFFECTS] = 0
    return renderer.render()
