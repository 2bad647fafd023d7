# SPDX-License-Identifier: MIT
"""Checks of the machine: shared memory, GPU, renderer, disk, clock, real-time rights, LIBERO's data."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from efn_ros.commands._checks.finding import Finding, fail, ok, warn

GB, MB = 1e9, 1e6
SHARED_MEMORY_BYTES = 64 * MB  # below this PyTorch's worker processes run out of it; containers often come with 64 MB
FREE_BYTES, LOW_BYTES = 1 * GB, 10 * GB  # below the first a bank cannot grow; below the second not for long
REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "afs", "ceph", "gluster", "lustre")  # locks or fsync may not hold there
VOLATILE = ("tmpfs", "ramfs")
SLOW_SYNC_S = 0.1  # a rollout waits for a few of them
RENDER_S = 60.0
RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
with mujoco.Renderer(model, 16, 16) as renderer:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    assert renderer.render().any(), "the image is black"
"""
TIME_ERROR = 5  # adjtimex: the clock is not synchronised
PRIORITY = 50  # SCHED_FIFO priority that the robot's bridge asks for, as it is shipped
LIMITS = "/etc/security/limits.d/efn_ros.conf"


def check_shared_memory(directory: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Check the shared memory that worker processes use."""
    if not directory.is_dir():
        yield fail("shared memory", f"there is no {directory}", f"mount a tmpfs on {directory}")
        return
    usage = shutil.disk_usage(directory)
    text = f"{usage.free / MB:.0f} of {usage.total / MB:.0f} MB free in {directory}"
    if usage.free < SHARED_MEMORY_BYTES:
        yield warn("shared memory", text, "start the container with --shm-size=1g, or free some of it")
    else:
        yield ok("shared memory", text)


def check_gpu() -> Iterator[Finding]:
    """Check whether PyTorch sees a GPU."""
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield ok("GPU", f"cuda:{i}: {properties.name}, {properties.total_memory / GB:.0f} GB")
        return
    text = f"none that PyTorch {torch.__version__} sees: policies run on the CPU"
    if shutil.which("nvidia-smi"):
        yield warn("GPU", text, "nvidia-smi exists: install the PyTorch build of that driver's CUDA version")
    else:
        yield warn("GPU", text, "the small packaged policy needs none; a large one does")


def check_renderer(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Render one image in a process of its own, as the simulated worlds do."""
    backend = environment.get("MUJOCO_GL", "")
    try:
        done = subprocess.run(
            [sys.executable, "-c", RENDER], capture_output=True, text=True, timeout=RENDER_S, env=dict(environment)
        )
        error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        error = f"it took more than {RENDER_S:g} s"
    if error:
        remedy = "apt-get install libegl1 libgl1-mesa-dri, or set MUJOCO_GL=osmesa; only simulated worlds need it"
        yield fail("renderer", f"MUJOCO_GL={backend or '(none)'}: {error}", remedy)
    else:
        yield ok("renderer", f"MUJOCO_GL={backend or '(none)'} renders")


def check_bank_disk(bank: Path) -> Iterator[Finding]:
    """Check the disk and the file system that a bank lies on, by writing a small file.

    Args:
        bank: Directory of the bank; the nearest one above it that exists is checked.
    """
    directory = next(each for each in (bank, *bank.absolute().parents) if each.is_dir())
    kind = _file_system(directory)
    usage = shutil.disk_usage(directory)
    text = f"{directory} ({kind}): {usage.free / GB:.1f} GB free"
    if usage.free < FREE_BYTES:
        yield fail("disk", text, "free some of it, or put the bank elsewhere: --bank DIRECTORY")
    elif usage.free < LOW_BYTES:
        yield warn("disk", text, "set a budget: parameters retention.* of bank_writer")
    else:
        yield ok("disk", text)
    if kind in VOLATILE:
        yield warn("file system", f"{kind} does not survive a restart", "put the bank on a disk")
    elif any(name in kind for name in REMOTE):
        yield warn("file system", f"{kind} may keep neither locks nor fsync", "put the bank on a local disk")
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".efn_doctor_") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(b"x" * 4096)
            file.flush()
            began = time.monotonic()
            os.fsync(file.fileno())
            took_s = time.monotonic() - began
    except OSError as error:
        yield fail(
            "bank directory", f"{directory} cannot be written to or locked: {error}", f"chown or remount {directory}"
        )
        return
    if took_s > SLOW_SYNC_S:
        remedy = "episodes end later by several times that: put the bank on a faster disk"
        yield warn("bank directory", f"an fsync takes {1e3 * took_s:.0f} ms", remedy)
    else:
        yield ok("bank directory", f"writable, locks hold, an fsync takes {1e3 * took_s:.1f} ms")


def _file_system(directory: Path) -> str:
    """Return the type of the file system, from the longest mount point above the directory."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    resolved = directory.resolve()
    above = [(len(m[1]), m[2]) for m in mounts if resolved.is_relative_to(m[1].replace("\\040", " "))]
    return max(above)[1]


def check_clock() -> Iterator[Finding]:
    """Check that the system's clock is synchronised, by which stamps of several machines are compared."""
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes = 0: read only
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state == -1:
        reason = os.strerror(ctypes.get_errno())
        yield warn("clock", f"its state cannot be read: {reason}", "make sure that chrony or systemd-timesyncd runs")
    elif state == TIME_ERROR:
        remedy = "apt-get install chrony, with one server for the robot and this machine"
        yield warn("clock", "not synchronised: stamps of another machine cannot be compared", remedy)
    else:
        yield ok("clock", "synchronised")


def check_real_time() -> Iterator[Finding]:
    """Check the rights that a robot's bridge asks for: SCHED_FIFO, and memory that stays."""
    root, name = os.geteuid() == 0, os.environ.get("USER", "*")
    priority = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if root or priority >= PRIORITY or priority == resource.RLIM_INFINITY:
        yield ok("real time", f"SCHED_FIFO {PRIORITY} is allowed" + (" (root)" if root else ""))
    else:
        remedy = f"add '{name} - rtprio {PRIORITY}' to {LIMITS} and log in again; only a real robot needs it"
        yield warn("real time", f"rtprio is {priority}, the bridge asks for {PRIORITY}", remedy)
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if root or locked == resource.RLIM_INFINITY:
        yield ok("locked memory", "unlimited" + (" (root)" if root else ""))
    else:
        remedy = f"add '{name} - memlock unlimited' to {LIMITS} and log in again; only a real robot needs it"
        yield warn("locked memory", f"memlock is {locked / MB:.0f} MB, a bridge locks some hundred", remedy)
    governors = {
        path.read_text().strip() for path in Path("/sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    }
    if governors - {"performance"}:
        remedy = "cpupower frequency-set -g performance; only a real robot needs it"
        yield warn("CPU frequency", f"governor {', '.join(sorted(governors))}", remedy)


def check_libero() -> Iterator[Finding]:
    """Check the data that the package index does not carry for LIBERO."""
    from efn_ros.worlds.libero_files import SUITES, find_files

    try:
        yield ok("LIBERO", f"its files are in {find_files(None, SUITES)}")
    except FileNotFoundError as error:
        yield warn("LIBERO", str(error), "only the graph libero_sim needs them")
