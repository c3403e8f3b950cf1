"""Who belongs to a child, by what /proc says: its session, its groups, whoever descends from them,
and every process that carries its marker in the environment (a grandchild may call setsid).

Asked by `process` (a child that is to end), by `guardian_main` (the node has died) and by
`leftovers` (a former run's). Blocks: not for the event loop. The guardian has to be small, so this
imports nothing but `errno`, `os` and `time`, and no types when it runs.
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False  # what the type checker believes to be true, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MARKER = "ROLEMESH_CHILD"
SIGTERM = 15  # the module `signal` builds enums: 0.8 MB in the guardian
SIGKILL = 9

_POLL_S = 0.05
_EXEC_POLL_S = 0.002
_EXEC_LOOKS = 25
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM})
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD


class Entry:
    """One process. `started_at`: clock ticks since the boot; with the pid it names a process for
    ever. `dead`: it has ended and waits for its parent to ask how."""

    __slots__ = ("dead", "group", "parent", "session", "started_at")

    def __init__(self, stat: bytes) -> None:
        # The name is in parentheses and may hold parentheses and blanks: proc_pid_stat(5).
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        self.started_at = int(fields[19])
        # A zombie with threads is one whose first thread alone has ended: it may hold a GPU yet.
        self.dead = fields[0] in b"ZXx" and int(fields[17]) <= 1


def entry(pid: int) -> Entry | None:
    stat = _read(f"/proc/{pid}/stat")
    return Entry(stat) if stat else None


def table() -> dict[int, Entry]:
    """Every process that can be seen."""
    found = ((int(name), entry(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return {pid: each for pid, each in found if each is not None}


class Family:
    """Who belongs to the children `roots` (pid and start time) and to those whose marker begins
    with `marker`. Processes that started before `since` are none of them.

    A root that has ended vouches for its session while we watch: the number cannot be given out
    anew before the session is empty. `long_ago`: nobody watched, it may have been.
    """

    def __init__(
        self,
        roots: Iterable[tuple[int, int]],
        marker: str,
        *,
        since: int = 0,
        long_ago: bool = False,
    ) -> None:
        self.seen: dict[int, int] = {}  # pid and start time, at the last look
        self._roots = dict(roots)
        self._marker = marker.encode()
        self._since = since
        self._long_ago = long_ago

    def living(self, processes: Mapping[int, Entry]) -> set[int]:
        """Whoever was seen at the last look is one of them: when a parent has ended, nothing else
        might tell."""
        found, sessions = self._known(processes)
        found |= {pid for pid, each in processes.items() if each.session in sessions}
        _add_descendants(found, processes)
        others = (pid for pid, each in processes.items() if pid not in found and self._may_be(each))
        found.update([pid for pid in others if carries(pid, self._marker)])
        _add_descendants(found, processes)
        found -= {1, os.getpid()}
        self.seen = {pid: processes[pid].started_at for pid in found}
        return {pid for pid in found if not processes[pid].dead}

    def _known(self, processes: Mapping[int, Entry]) -> tuple[set[int], set[int]]:
        """Who of those seen is there still, and the sessions that they lead or a root has led."""
        found: set[int] = set()
        for pid, started_at in {**self.seen, **self._roots}.items():
            each = processes.get(pid)
            if each is not None and each.started_at == started_at:
                found.add(pid)
        ended = set() if self._long_ago else self._roots.keys() - processes.keys()
        return found, found | ended

    def _may_be(self, each: Entry) -> bool:
        return each.started_at >= self._since and not each.dead


def carries(pid: int, marker: bytes) -> bool:
    """Whether its environment has a marker that begins so. Only our own user's can be read."""
    variable = MARKER.encode() + b"=" + marker
    environment = _environment(pid)
    return environment.startswith(variable) or b"\0" + variable in environment


def work(pids: Iterable[int]) -> int:
    """What they have read and mapped so far: memory and page faults (a mapped file), bytes read
    (one that is not). Not the processor's time, which a child that hangs may use up, too."""
    return sum(_work(pid) for pid in pids)


def send(pid: int, number: int) -> None:
    try:  # noqa: SIM105 - contextlib is an import that the guardian does without
        os.kill(pid, number)
    except OSError:  # it has ended, or is another user's: the next look tells
        pass


def end(
    family: Family, patience_s: float, give_up_s: float, looks: int = 2
) -> tuple[set[int], set[int]]:
    """SIGTERM to each of it once, SIGKILL to those that are left after `patience_s`. Returns who
    was found, and who of them is left after `give_up_s`.

    Somebody may be forked while /proc is read: nobody is left when several `looks` say so."""
    begun = time.monotonic()
    asked: set[int] = set()
    left: set[int] = set()
    empty = 0
    while True:
        waited_s = time.monotonic() - begun
        try:
            left = family.living(table())
            empty = 0 if left else empty + 1
        except OSError:  # there is no descriptor now: there may be one soon
            empty = 0
        if empty >= looks or waited_s >= give_up_s:
            return asked, left
        killing = waited_s >= patience_s
        for pid in left if killing else left - asked:
            send(pid, SIGKILL if killing else SIGTERM)
        asked |= left
        time.sleep(_POLL_S)


def _work(pid: int) -> int:
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return 0
    fields = stat[stat.rindex(b")") + 2 :].split()
    # proc_pid_stat(5): minflt, majflt, rss; proc_pid_io(5): rchar.
    io = (_read(f"/proc/{pid}/io") or b"rchar: 0").split()
    return sum(int(fields[index]) for index in (7, 9, 21)) + int(io[1])


def _environment(pid: int) -> bytes:
    """In the middle of an exec a process has none, or the first part of its old one, for a moment;
    a busy machine draws it out."""
    environment: bytes | None = b""
    for _ in range(_EXEC_LOOKS):
        environment = _read(f"/proc/{pid}/environ")
        if environment is None or len(environment) == _environment_size(pid):
            break
        time.sleep(_EXEC_POLL_S)
    return environment or b""


def _environment_size(pid: int) -> int:
    """In bytes; -1: there will be one in a moment."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return 0
    # proc_pid_stat(5): state, flags, startcode, env_start, env_end. In an exec, the first of these
    # addresses is filled in last.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in b"ZXx" or int(fields[6]) & _KERNEL_THREAD:
        return 0
    return int(fields[48]) - int(fields[47]) if fields[23] != b"0" else -1


def _add_descendants(found: set[int], processes: Mapping[int, Entry]) -> None:
    more = found
    while more:
        more = {pid for pid, each in processes.items() if each.parent in found} - found
        found |= more


def _read(path: str) -> bytes | None:
    """None where the process has ended meanwhile or is another user's. Raises OSError when that
    cannot be told: without a descriptor, say."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        if not is_gone(error):
            raise
        return None


def is_gone(error: OSError) -> bool:
    """Whether a look into /proc failed for the process's sake, and not for ours."""
    return error.errno in _GONE
