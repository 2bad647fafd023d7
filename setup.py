# SPDX-License-Identifier: MIT
"""The Python part for pip, and the one list of the package's executables: CMakeLists.txt reads it from here."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["efn_ros", "efn_ros.*"]),
    package_data={
        "efn_ros": [
            "py.typed",
            "ros/*.xml",
            "robots/models/*.urdf",
            "policies/pocket_vla/checkpoints/*/*",
            "efn/checkpoints/*/*",
            "bank/seed/*/*",
            "bank/seed/*/payloads/*",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/efn_ros"]),
        ("share/efn_ros", ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "camera_ingest = efn_ros.nodes.camera_ingest:main",
            "vla_policy = efn_ros.nodes.vla_policy:main",
            "experience_retrieval = efn_ros.nodes.experience_retrieval:main",
            "efn_corrector = efn_ros.nodes.efn_corrector:main",
            "bank_writer = efn_ros.nodes.bank_writer:main",
            "efn_trainer = efn_ros.nodes.efn_trainer:main",
            "episode_manager = efn_ros.nodes.episode_manager:main",
            "sim_bridge = efn_ros.nodes.sim_bridge:main",
            "agibot_g1_bridge = efn_ros.nodes.agibot_g1_bridge:main",
            "agibot_g1_driver = efn_ros.nodes.agibot_g1_driver:main",
            "trajectory_bridge = efn_ros.nodes.trajectory_bridge:main",
            "image_reranking = efn_ros.experiments.image_reranking.node:main",
        ],
    },
)
