# SPDX-License-Identifier: MIT
"""Policies and worlds, one instance in each process: they take seconds to load, hardly less than a job takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from efn_ros.correction import Corrector
from efn_ros.runtime.factory import make_corrector, make_inference, make_simulation
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.worlds import Deployment, World


@cache
def make_parts(graph: str, overlays: tuple[str, ...]) -> tuple[Graph, Inference, Corrector]:
    """Return a graph with its policy and corrector."""
    loaded = Graph.load(graph, overlays)
    inference = _inference(json.dumps(loaded.parameters("vla_policy"), sort_keys=True))
    return loaded, inference, make_corrector(loaded.parameters("efn_corrector"))


def make_world_of(graph: Graph, deployment: int | None, kinds: Sequence[str]) -> World:
    """Return the world of a graph in a deployment; None: as trained."""
    world = _simulation(json.dumps(graph.world, sort_keys=True))
    world.deployment = Deployment() if deployment is None else Deployment.sample(deployment, kinds)
    return world


@cache
def _inference(parameters: str) -> Inference:
    return make_inference(json.loads(parameters))


@cache
def _simulation(parameters: str) -> World:
    return make_simulation(json.loads(parameters))
