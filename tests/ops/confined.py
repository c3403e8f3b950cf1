"""Run a program as confined as a unit says: `confined.py UNIT PROGRAM ARGUMENT...`

For tests, on machines where systemd does not run. Of the unit's lines it honours those that break a
program unnoticed until it is in production: SystemCallFilter (its sets as `systemd-analyze`
knows), RestrictAddressFamilies, MemoryDenyWriteExecute where the unit has it, NoNewPrivileges. What
the program starts in turn is as confined.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | 1  # errno EPERM, as SystemCallErrorNumber= says
EQUAL = 4
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 38, 65, 1


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", Path(unit).read_text(), re.MULTILINE)


def calls(name: str) -> set[str]:
    """The system calls of a set, and of the sets in it."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", name]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: set[str] = set()
    for line in text.splitlines()[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            found |= calls(word)
    return found


def allowed(unit: str) -> set[str]:
    found = calls("@default")
    for line in values(unit, "SystemCallFilter"):
        for name in line.removeprefix("~").split():
            found = found - calls(name) if line.startswith("~") else found | calls(name)
    return found


def load_filter(unit: str) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(REFUSE))
    names = values(unit, "RestrictAddressFamilies")[0].split()
    families = [int(getattr(socket, name)) for name in names]
    for name in allowed(unit):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # another architecture's
        if name != "socket":
            seccomp.seccomp_rule_add_array(context, ALLOW, number, 0, None)
            continue
        for family in families:
            rule = Comparison(0, EQUAL, family, 0)
            seccomp.seccomp_rule_add_array(context, ALLOW, number, 1, ctypes.byref(rule))
    if seccomp.seccomp_load(context) != 0:
        sys.exit("the filter could not be loaded")


def main() -> None:
    _, unit, *argv = sys.argv
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    load_filter(unit)
    if values(unit, "MemoryDenyWriteExecute") == ["yes"]:
        # Last, because ctypes itself may want such memory. Kernels before 6.3 do not know it.
        libc.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main()
