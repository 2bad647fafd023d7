# SPDX-License-Identifier: MIT
"""The package as others see it: from C++, and with the official ROS 2 tools."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from efn_ros import msg

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.integration

CMAKE = """
cmake_minimum_required(VERSION 3.20)
project(user_of_efn_ros CXX)
find_package(efn_ros REQUIRED)
add_executable(user main.cpp)
target_link_libraries(user PRIVATE ${efn_ros_TARGETS})
"""


def test_cpp_package_builds_against_the_messages(tmp_path):
    name = sorted(n for n in dir(msg) if n[0].isupper())[0]
    header = getattr(msg, name).__module__.rpartition("._")[2]
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "main.cpp").write_text(
        f'#include <iostream>\n#include "efn_ros/msg/{header}.hpp"\n'
        f"int main() {{ std::cout << rosidl_generator_traits::name<efn_ros::msg::{name}>(); }}\n"
    )
    python = [f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY"]
    for command in (["cmake", "-Wno-dev", "-S", ".", "-B", "build", *python], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    out = subprocess.run([tmp_path / "build/user"], capture_output=True, text=True, check=True)
    assert out.stdout == f"efn_ros/msg/{name}"


def test_official_tools_list_interfaces_and_executables():
    if not shutil.which("ros2"):
        pytest.skip("ros2 is not on the path: source a ROS 2, or set EFN_TEST_DATA to where ros2/install.sh is")

    def ros2(*words):
        return subprocess.run(["ros2", *words], capture_output=True, text=True, check=True).stdout.split()

    interfaces = {
        f"efn_ros/{p.parent.name}/{p.stem}" for d in ("msg", "srv", "action") for p in (ROOT / d).glob(f"*.{d}")
    }
    assert {i for i in ros2("interface", "list") if i.startswith("efn_ros/")} == interfaces
    executables = re.findall(r'"(\w+) = efn_ros\.', (ROOT / "setup.py").read_text())
    assert sorted(ros2("pkg", "executables", "efn_ros")) == sorted(executables + ["efn_ros"] * len(executables))
