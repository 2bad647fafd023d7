# SPDX-License-Identifier: MIT
"""`./efn doctor`: each check finds what it is for, names the remedy, and never ends the others."""

from __future__ import annotations

import json
import os
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from efn_ros.commands._checks import host, software
from efn_ros.commands._checks.finding import Finding, Status, run_check
from efn_ros.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


def only(findings) -> Finding:
    (finding,) = findings
    return finding


def named(findings, name: str) -> Finding:
    return only(finding for finding in findings if finding.name == name)


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_a_python_that_is_too_old_or_too_new_fails(monkeypatch, version):
    assert only(software.check_python()).status == Status.OK
    monkeypatch.setattr(sys, "version_info", version)
    finding = only(software.check_python())
    assert finding.status == Status.FAIL and "EFN_PYTHON" in finding.remedy


def test_an_unknown_distribution_warns():
    finding = named(software.check_ros({"ROS_DISTRO": "foxy"}), "ROS 2")
    assert finding.status == Status.WARN and "foxy" in finding.text and "jazzy" in finding.remedy


def test_interfaces_that_are_not_built_fail(monkeypatch):
    monkeypatch.setitem(sys.modules, "efn_ros.msg", None)
    finding = named(software.check_ros({"ROS_DISTRO": "jazzy"}), "interfaces")
    assert finding.status == Status.FAIL and "./efn setup" in finding.remedy


@pytest.mark.parametrize("domain", ["102", "-1", "robot"])
def test_a_domain_without_ports_fails(domain):
    finding = named(software.check_discovery({"ROS_DOMAIN_ID": domain}), "domain")
    assert finding.status == Status.FAIL and domain in finding.text


@pytest.mark.parametrize(
    ("environment", "status", "words"),
    [
        ({}, Status.OK, "this machine alone"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, Status.WARN, "every machine of the subnet"),
        ({"ROS_STATIC_PEERS": "10.0.0.2"}, Status.WARN, "ROS_STATIC_PEERS"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "NEAR"}, Status.FAIL, "NEAR"),
    ],
)
def test_the_reach_of_a_graph_is_reported(monkeypatch, environment, status, words):
    monkeypatch.setattr(software, "_round_trip", lambda: iter(()))
    finding = named(software.check_discovery(environment), "discovery")
    assert finding.status == status and words in finding.text


def test_a_package_that_differs_from_its_pin_is_named(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# pins\nnumpy==0.1\nno-such-package==1.0  # why\ntorch==9 ; python_version < '3'\nyaml\n")
    finding = only(software.check_versions(path))
    assert finding.status == Status.WARN and "2 of 2" in finding.text
    assert "numpy" in finding.text and "no-such-package missing (==1.0)" in finding.text
    assert only(software.check_versions(tmp_path / "absent")).status == Status.WARN


def test_a_version_that_is_known_to_break_fails(monkeypatch):
    monkeypatch.setattr(software, "_version", lambda name: "5.0.0")
    finding = next(software.check_versions(ROOT / "requirements.txt"))
    assert finding.status == Status.FAIL and "opencv-python-headless 5.0.0" in finding.text


def test_little_shared_memory_warns(monkeypatch):
    monkeypatch.setattr(host.shutil, "disk_usage", lambda path: Usage(64_000_000, 60_000_000, 4_000_000))
    finding = only(host.check_shared_memory())
    assert finding.status == Status.WARN and "4 of 64 MB" in finding.text and "--shm-size" in finding.remedy
    assert only(host.check_shared_memory(Path("/no/such/directory"))).status == Status.FAIL


@pytest.mark.simulator
def test_a_renderer_that_does_not_render_fails_without_ending_this_process():
    assert only(host.check_renderer()).status == Status.OK
    finding = only(host.check_renderer({**os.environ, "MUJOCO_GL": "nonsense"}))
    assert finding.status == Status.FAIL and "nonsense" in finding.text and "libegl1" in finding.remedy


def test_the_disk_of_a_bank_that_is_not_made_yet_is_that_of_the_directory_above(tmp_path):
    findings = list(host.check_bank_disk(tmp_path / "no" / "bank"))
    assert str(tmp_path) in named(findings, "disk").text
    assert named(findings, "bank directory").status == Status.OK
    assert not list(tmp_path.iterdir()), "the check leaves nothing"


def test_a_full_disk_a_remote_one_and_one_that_cannot_be_written_to_are_found(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(host.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**8))
        patch.setattr(host, "_file_system", lambda path: "nfs4")
        findings = list(host.check_bank_disk(tmp_path))
    assert named(findings, "disk").status == Status.FAIL
    assert "fsync" in named(findings, "file system").text
    assert named(host.check_bank_disk(Path("/proc/bank")), "bank directory").status == Status.FAIL


@pytest.mark.parametrize(("state", "status"), [(0, Status.OK), (5, Status.WARN), (-1, Status.WARN)])
def test_a_clock_that_is_not_synchronised_warns(monkeypatch, state, status):
    library = type("Library", (), {"adjtimex": lambda self, buffer: state})()
    monkeypatch.setattr(host.ctypes, "CDLL", lambda *args, **options: library)
    assert only(host.check_clock()).status == status


def test_missing_real_time_rights_name_the_lines_to_add(monkeypatch):
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(host.resource, "getrlimit", lambda kind: (0, 0))
    findings = list(host.check_real_time())
    assert "rtprio 50" in named(findings, "real time").remedy
    assert "memlock unlimited" in named(findings, "locked memory").remedy


def test_missing_data_of_libero_warn(monkeypatch, tmp_path):
    monkeypatch.delenv("EFN_TEST_DATA", raising=False)
    monkeypatch.setenv("EFN_LIBERO_DIR", str(tmp_path))
    finding = only(host.check_libero())
    assert finding.status == Status.WARN and str(tmp_path) in finding.text


def test_a_check_that_raises_is_a_finding():
    def check():
        yield Finding("one", Status.OK, "")
        raise OSError("no such device")

    first, second = run_check("disk", check)
    assert first.status == Status.OK
    assert (second.name, second.status) == ("disk", Status.FAIL) and "OSError: no such device" in second.text


@pytest.fixture
def quick(monkeypatch):
    """Leaves out what takes long, and what depends on the machine."""
    for name in ("check_renderer", "check_gpu"):
        monkeypatch.setattr(host, name, lambda: iter(()))
    monkeypatch.setattr(software, "_round_trip", lambda: iter(()))
    monkeypatch.setattr("efn_ros.commands.doctor._check_graph", lambda args: iter(()))


def test_the_report_for_scripts_has_every_finding_and_a_failure_is_the_exit_code(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    code = main(["doctor", "--json", "--bank", str(tmp_path)])
    findings = json.loads(capsys.readouterr().out)
    assert code == any(finding["status"] == "FAIL" for finding in findings)
    assert {"Python", "ROS 2", "discovery", "versions", "disk", "clock"} <= {finding["name"] for finding in findings}
    assert all(finding["remedy"] for finding in findings if finding["status"] != "OK")

    monkeypatch.setenv("ROS_DOMAIN_ID", "1000")
    assert main(["doctor", "--bank", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  domain          ROS_DOMAIN_ID is '1000'\n" in shown and "-> set a number from 0 to 101" in shown
