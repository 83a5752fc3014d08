"""The service may keep CAP_LEASE; what it starts may not have it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests import programs

SCRIPT = """
import subprocess, sys
from dfwatch.operation.privileges import keep_capabilities_from_children
def caps():
    return " ".join(line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapPrm", "CapAmb")))
print(caps())
keep_capabilities_from_children()
print(caps())
print(subprocess.run(["grep", "-E", "CapPrm|CapAmb", "/proc/self/status"], capture_output=True, text=True).stdout)
"""
LEASE = 1 << 28


def test_children_do_not_inherit_what_systemd_gave() -> None:
    if os.geteuid() != 0:
        pytest.skip("giving capabilities away needs root")
    given = [
        programs.require("setpriv"),
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+lease",
        "--ambient-caps=+lease",
    ]
    done = subprocess.run([*given, sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not possible here: {done.stderr.strip()[-200:]}")
    numbers = [int(number, 16) & LEASE for number in re.findall(r"\b[0-9a-f]{16}\b", done.stdout)]
    assert numbers == [LEASE, LEASE, LEASE, 0, 0, 0]
