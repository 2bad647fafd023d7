# SPDX-License-Identifier: MIT
"""The C++ example: what it executes of a message, and the whole package where rclcpp is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "cpp_subscriber"
PREFIXES = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix]
MAIN = r"""
#include <iostream>
#include "first_step.hpp"

int main()
{
  efn_ros::msg::CorrectedAction action;
  action.corrected.horizon = 2;
  action.corrected.action_size = 3;
  action.corrected.data = {1.5f, -2.0f, 0.25f, 7.0f, 8.0f, 9.0f};
  for (const float value : first_step(action)) {
    std::cout << value << ' ';
  }
  for (const unsigned horizon : {0u, 4u}) {
    action.corrected.horizon = horizon;
    try {
      first_step(action);
    } catch (const std::invalid_argument & error) {
      std::cout << "refused ";
    }
  }
}
"""

pytestmark = pytest.mark.integration


def run(*command: str | Path, directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_step_of_a_message_is_its_first_row_and_a_broken_message_is_refused(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("g++ is not on the path: sudo apt-get install g++")
    (tmp_path / "main.cpp").write_text(MAIN)
    folders = [f"-I{folder}" for prefix in PREFIXES for folder in (prefix / "include").glob("*") if folder.is_dir()]
    run("g++", "-std=c++17", "-Wall", "-Werror", f"-I{PACKAGE / 'src'}", *folders, "main.cpp", directory=tmp_path)
    assert run(tmp_path / "a.out", directory=tmp_path).split() == ["1.5", "-2", "0.25", "refused", "refused"]


def test_the_package_builds_where_rclcpp_is(tmp_path):
    if not any((prefix / "share" / "rclcpp" / "cmake").is_dir() for prefix in PREFIXES):
        pytest.skip("rclcpp is not installed: source a ROS 2 from apt, or from source")
    python = [f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY"]
    run("cmake", "-Wno-dev", "-S", PACKAGE, "-B", "build", *python, directory=tmp_path)
    run("cmake", "--build", "build", directory=tmp_path)
    assert (tmp_path / "build" / "subscriber").is_file()
