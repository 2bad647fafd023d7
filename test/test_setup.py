# SPDX-License-Identifier: MIT
"""What ./efn promises: steps that are done once, that say what failed, and that are repaired by the next call."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import efn_ros

ROOT = Path(__file__).resolve().parents[1]
EXECUTABLES = dict(re.findall(r'"(\w+) = (efn_ros\.[\w.]+):main"', (ROOT / "setup.py").read_text()))
STEPS = ["venv", "torch", "packages", "bare", "build"]

# A Python whose venv and pip only pretend, so that the order, failure and repair of the steps are tested in a second:
# pip notes its call, fails while the file `no-network` exists and hangs while `hang` does.
PYTHON = """#!/bin/bash
case "$*" in
  *_base_executable*) echo '{stub}' ;;
  "-m venv"*) mkdir -p "${{@: -1}}/bin" && cp '{stub}' "${{@: -1}}/bin/python" && cp '{dir}/colcon' "${{@: -1}}/bin/" ;;
  "-m pip"*) echo "$*" >>'{dir}/pip-calls'
    while [ -e '{dir}/hang' ]; do sleep 0.05; done
    [ ! -e '{dir}/no-network' ] || {{ echo 'pretended: no network'; exit 1; }} ;;
  *) exec '{python}' "$@" ;;
esac
"""
COLCON = """#!/bin/bash
while [ $# -gt 0 ]; do [ "$1" != --install-base ] || install=$2; shift; done
mkdir -p "$install/lib/python3/site-packages" && ln -sfn "$PWD/efn_ros" "$install/lib/python3/site-packages/efn_ros"
"""


class Checkout:
    """A copy of what ./efn reads, with a pretended Python."""

    def __init__(self, directory: Path):
        self.tools, self.root = directory / "tools", directory / "checkout"
        self.tools.mkdir()
        stub = self.tools / "python"
        stub.write_text(PYTHON.format(stub=stub, dir=self.tools, python=sys.executable))
        (self.tools / "colcon").write_text(COLCON)
        stub.chmod(0o755)
        (self.tools / "colcon").chmod(0o755)
        (self.root / "efn_ros").mkdir(parents=True)
        for name in ["efn", "requirements.txt", "setup.py", "package.xml", "CMakeLists.txt"]:
            shutil.copy2(ROOT / name, self.root)
        shutil.copy2(ROOT / "efn_ros/__init__.py", self.root / "efn_ros")
        shutil.copytree(ROOT / "efn_ros/commands", self.root / "efn_ros/commands")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("EFN_", "ROS_", "PYTHONPATH"))}
        self.env["EFN_PYTHON"] = str(stub)

    def start(self, *words, **env):
        """Start ./efn in a process group of its own."""
        return subprocess.Popen(
            [self.root / "efn", *words], env={**self.env, **env}, cwd="/", text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def call(self, *words, **env):
        """Run ./efn to its end: exit code, standard output, standard error."""
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def wait_for_pip(self, calls: int):
        """Wait until pip was called that often."""
        deadline = time.monotonic() + 30
        while not (self.tools / "pip-calls").exists() or self.pip_calls() < calls:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def pip_calls(self) -> int:
        return len((self.tools / "pip-calls").read_text().splitlines())


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def steps(err: str) -> list[str]:
    return re.findall(r"^efn: (\w+) +\.\.\. ", err, re.MULTILINE)


def test_first_call_sets_up_and_the_next_prints_nothing_and_is_quick(checkout):
    code, out, err = checkout.call("--help")
    assert (code, steps(err)) == (0, STEPS), err
    assert "commands:" in out
    start = time.monotonic()
    code, out, err = checkout.call("--help")
    assert (code, err) == (0, "")
    assert time.monotonic() - start < 1.0


def test_failed_step_is_named_with_its_log_and_the_next_call_goes_on_from_it(checkout):
    checkout.call("--help")
    with (checkout.root / "requirements.txt").open("a") as file:
        file.write("\nleft-pad==1.0\n")
    (checkout.tools / "no-network").touch()
    code, out, err = checkout.call("--help")
    assert code != 0 and out == ""
    for part in ["step 'packages' failed", "pretended: no network", "setup-packages.log", "same call goes on"]:
        assert part in err
    (checkout.tools / "no-network").unlink()
    code, out, err = checkout.call("--help")
    assert (code, steps(err)) == (0, ["packages", "build"])


def test_killed_setup_is_repaired_and_half_unpacked_packages_are_unpacked_again(checkout):
    (checkout.tools / "hang").touch()
    process = checkout.start("--help")
    checkout.wait_for_pip(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (checkout.tools / "hang").unlink()
    code, _, err = checkout.call("--help")
    assert (code, steps(err)) == (0, STEPS)

    packages = checkout.root / ".efn/venv/lib/python3.x/site-packages"
    for name, files in {"half": ["METADATA", "RECORD"], "whole": ["METADATA", "RECORD", "INSTALLER"]}.items():
        (packages / f"{name}-1.0.dist-info").mkdir(parents=True)
        for file in files:
            (packages / f"{name}-1.0.dist-info" / file).touch()
    (checkout.root / ".efn/stamps/bare").unlink()
    (checkout.root / ".efn/ready").unlink()
    code, _, err = checkout.call("--help")
    assert (code, steps(err)) == (0, ["bare"])
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_new_files_and_interfaces_are_built_and_edits_in_python_are_not(checkout):
    checkout.call("setup")
    (checkout.root / "efn_ros/commands/main.py").open("a").write("# edited\n")
    assert checkout.call("setup") == (0, "", "")
    (checkout.root / "efn_ros/more.py").touch()
    assert steps(checkout.call("setup")[2]) == ["build"]
    (checkout.root / "msg").mkdir()
    (checkout.root / "msg/New.msg").write_text("int32 a\n")
    assert steps(checkout.call("setup")[2]) == ["build"]
    (checkout.root / "msg/New.msg").write_text("int64 a\n")
    assert steps(checkout.call("setup")[2]) == ["build"]
    assert checkout.call("setup") == (0, "", "")


def test_moved_checkout_is_set_up_again(checkout):
    checkout.call("setup")
    checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))
    assert steps(checkout.call("setup")[2]) == STEPS


@pytest.mark.skipif(not shutil.which("flock"), reason="flock is not installed (Debian: util-linux)")
def test_two_calls_at_once_set_up_once(checkout):
    (checkout.tools / "hang").touch()
    first = checkout.start("setup")
    checkout.wait_for_pip(1)
    second = checkout.start("setup")
    assert "waiting for it" in second.stderr.readline()
    (checkout.tools / "hang").unlink()
    assert steps(first.communicate(timeout=60)[1]) == STEPS
    assert steps(second.communicate(timeout=60)[1]) == []
    assert (first.returncode, second.returncode) == (0, 0)


def test_unfit_python_is_refused_by_name(checkout):
    code, _, err = checkout.call("setup", EFN_PYTHON="/bin/false")
    assert code == 1 and "/bin/false" in err and "3.10 to 3.13" in err


def test_other_ros_than_at_set_up_is_refused(checkout):
    checkout.call("setup")
    code, _, err = checkout.call("setup", ROS_DISTRO="humble")
    assert code == 1 and "'wheels'" in err and "'humble'" in err


def test_environment_is_meant_for_eval(checkout):
    checkout.call("setup")
    script = f'eval "$({checkout.root}/efn env)" && echo "$EFN_ROOT $MUJOCO_GL $ROS_AUTOMATIC_DISCOVERY_RANGE"'
    out = subprocess.run(
        ["sh", "-c", script], env={**checkout.env, "MUJOCO_GL": "osmesa"}, capture_output=True, text=True
    )
    assert out.stdout.split() == [str(checkout.root), "osmesa", "LOCALHOST"], out.stderr


def test_unknown_command_names_the_nearest(checkout):
    code, out, err = checkout.call("tset")
    assert (code, out) == (2, "") and "'tset'" in err and "'test'" in err


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_has_one_exact_version(python):
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    required = [Requirement(line) for line in lines]
    named = sorted({r.name for r in required})
    active = sorted(r.name for r in required if not r.marker or r.marker.evaluate({"python_version": python}))
    assert active == named
    assert all([s.operator for s in r.specifier] == ["=="] for r in required)


def test_one_version_of_the_package():
    package = xml.etree.ElementTree.parse(ROOT / "package.xml").findtext("version")
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert package == project == efn_ros.__version__


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executable_is_there(name):
    module = ROOT / (EXECUTABLES[name].replace(".", "/") + ".py")
    assert module.is_file(), f"setup.py names {EXECUTABLES[name]}"
    scripts = [Path(prefix, "lib/efn_ros", name) for prefix in os.environ["AMENT_PREFIX_PATH"].split(":")]
    script = next(path for path in scripts if path.exists())
    assert os.access(script, os.X_OK)
    assert f"from {EXECUTABLES[name]} import main" in script.read_text()
