"""One run of a child: from the wish for a process to the end of its last descendant.

Made by the supervisor, which hears in events (core/lifecycle) what becomes of it. A run starts the
process, waits until it answers, and has it watched from then on (`watch`).

A server is trusted only once the socket that answers belongs to the run's own processes: somebody
else's would otherwise be sent requests, and the key. Until then nothing secret is sent.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Iterable

from attrs import field, frozen

from rolemesh.config.schema_node import LlamaServerSection, ModelSection
from rolemesh.core.devices import Device
from rolemesh.core.lifecycle import Answered, Event, Exited, Impossible, Moved, Sick
from rolemesh.core.types import Backend, BaseUrl
from rolemesh.errors import RunError
from rolemesh.node import check, command, ports, programs
from rolemesh.node.ask import Asker, Facts, Health
from rolemesh.node.child_log import ChildLog
from rolemesh.node.gpu import Gpus
from rolemesh.node.guardian import Guardian
from rolemesh.node.process import Process, StartFailed, how
from rolemesh.node.state import NodeState
from rolemesh.node.watch import Watch

log = logging.getLogger("rolemesh.node")

FIRST_LOOK_S = 0.02
LONGEST_LOOK_S = 0.25
MOVES_EVERY_S = 1.0
SETTLE_S = 5.0  # what a GPU's memory may take to come back
REASON_LINES = 3
LOOKED_AT_LINES = 40
MAX_REASON = 500
_ERROR = re.compile(r"[0-9.]+ E ")  # how llama-server marks them: time, level, text


@frozen
class Launch:
    """What is started, on which of the node's `available` devices. `vacated`: the ids of those
    that another child has just left. `stuck_s`: how long busy slots may bring nothing forth."""

    section: ModelSection
    llama: LlamaServerSection
    devices: tuple[Device, ...]
    available: tuple[Device, ...]
    vacated: tuple[str, ...]
    stuck_s: float

    def flaw(self) -> str | None:
        """Why it cannot work. Blocks."""
        return check.device_flaw(self.section, self.llama, self.available) or check.flaw(
            self.section, self.llama, self.devices
        )


@frozen(eq=False)
class Equipment:
    """What every run of this node works with. `ports`: given to a child, perhaps not bound yet."""

    gpus: Gpus
    guardian: Guardian
    state: NodeState
    asker: Asker
    log_of: Callable[[str], ChildLog]
    ports: set[int] = field(factory=set)


class Run:
    """`backend`, `facts`, `pid`, `port` hold from the start of the process. `busy` is asked whether
    requests are in flight."""

    def __init__(
        self,
        launch: Launch,
        equipment: Equipment,
        tell: Callable[[Run, Event], None],
        busy: Callable[[], bool],
    ) -> None:
        self.launch = launch
        self.backend: Backend | None = None
        self.facts = Facts()
        self.port: int | None = None
        self._equipment = equipment
        self._tell = tell
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._watch: Watch | None = None
        self._began_at = self._loop.time()
        self._ending = False
        self._killed = False
        self._why: str | None = None  # it was ended, where its own words do not tell
        self._task = asyncio.create_task(self._live(), name=f"run: {launch.section.model_id}")

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def has_exited(self) -> bool:
        """The process, at least; others of it may be there still."""
        return self._process is not None and self._process.exited.done()

    @property
    def in_doubt(self) -> bool:
        """A request has failed, and it is not known yet whether the port is still its own."""
        return self._watch is not None and self._watch.in_doubt

    def heard(self, *, worked: bool) -> None:
        """What came of a request."""
        if self._watch is not None:
            self._watch.heard(worked=worked)

    def uptime_s(self, now: float) -> float:
        return round(now - self._began_at, 1)

    def terminate(self) -> None:
        self._ending = True
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        self._ending = self._killed = True
        if self._process is not None:
            self._process.kill()

    async def ended(self) -> None:
        """Until nothing of it is left."""
        await asyncio.wait({self._task})

    async def _live(self) -> None:
        try:
            failed = await self._begin()
        except Exception as error:  # the border of a task: whatever it was, the child has failed
            log.exception("the run of %s failed", self.launch.section.model_id)
            failed = Exited(f"the node could not start it: {type(error).__name__}")
        if failed is not None:
            self._forget_port()
            self._tell(self, Exited(failed.reason) if self._ending else failed)
            return
        process = self._process
        if process is None:
            self._tell(self, Exited("stopped before it had begun"))
            return
        watch = asyncio.create_task(self._look_after(process))
        code = await process.exited
        self._forget_port()
        watch.cancel()
        await asyncio.wait({watch})
        await process.gone()
        await self._equipment.state.child_ended(process.pid)
        self._tell(self, Exited(self._reason(code)))

    def _forget_port(self) -> None:
        """Bound or never to be: whoever looks for a free one sees that by himself."""
        if self.port is not None:
            self._equipment.ports.discard(self.port)

    async def _begin(self) -> Exited | Impossible | None:
        """Starts the process, unless there is no need any more. Returns why there is none: what
        stays so, or what may pass."""
        launch, equipment = self.launch, self._equipment
        section = launch.section
        flaw = await asyncio.to_thread(launch.flaw)
        if flaw is not None:
            return Impossible(flaw)
        if launch.vacated:
            await equipment.gpus.memory_settled(launch.vacated, SETTLE_S)
        if self._ending:
            return None
        port = ports.free_port(equipment.ports)
        equipment.ports.add(port)
        self.port = port
        key = secrets.token_urlsafe(24)
        env = command.environment(launch.llama, launch.devices, key)
        try:
            program = await asyncio.to_thread(programs.find, launch.llama.path, env)
        except RunError as error:
            return Impossible(error.message)
        argv = command.argv(program, section, launch.llama, launch.devices, port)
        marker = equipment.guardian.marker()
        try:
            process = await Process.start(
                argv, env, equipment.log_of(section.model_id), equipment.guardian, marker
            )
        except StartFailed as failed:
            return Exited(failed.reason) if failed.may_pass else Impossible(failed.reason)
        self._process = process
        self.backend = Backend(
            label=section.model_id,
            name=section.model_id,
            url=BaseUrl("http", command.HOST, port),
            auth=("Authorization", f"Bearer {key}"),
        )
        self._pass_on_wish(process)
        await equipment.state.child_started(process, section.model_id)
        return None

    def _pass_on_wish(self, process: Process) -> None:
        """It may have been told to end while it was started."""
        if self._killed:
            process.kill()
        elif self._ending:
            process.terminate()

    async def _look_after(self, process: Process) -> None:
        try:
            if await self._until_it_answers(process) and self._watch is not None:
                await self._watch.run()
        except Exception:  # the border of a task: a child that nobody looks after is ended
            log.exception("%s is looked after no more", self.launch.section.model_id)
            process.kill()
        finally:
            self._watch = None  # which knows this run

    async def _until_it_answers(self, process: Process) -> bool:
        backend, asker = self.backend, self._equipment.asker
        if backend is None or self.port is None:
            return False
        pause_s, seen, next_move = FIRST_LOOK_S, Health.REFUSED, self._loop.time()
        moved_at = 0.0, 0
        while True:
            health = await asker.health(backend)
            if health is not Health.REFUSED and not await self._is_ours(process, self.port):
                self._why = f"port {self.port} is held by another program"
                process.kill()
                return False
            if health is Health.READY:
                self.facts = await asker.facts(backend, self.launch.section)
                work = await asker.work(backend)
                self._watch = self._watch_of(process, backend, work)
                self._forget_port()
                if not process.exited.done():
                    self._tell(self, Answered())
                return True
            now = self._loop.time()
            if health is not seen:
                seen = health
                self._tell(self, Moved())
            elif now >= next_move:
                next_move = now + MOVES_EVERY_S
                moves = process.last_output_at, await self._work(process)
                if moves != moved_at:
                    moved_at = moves
                    self._tell(self, Moved())
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_LOOK_S, pause_s * 1.5)

    async def _work(self, process: Process) -> int:
        try:
            return await asyncio.to_thread(process.work)
        except (OSError, RuntimeError):  # no descriptor or thread now: it is not the child's fault
            return 0

    async def _is_ours(self, process: Process, port: int) -> bool:
        if await asyncio.to_thread(process.listens, port):
            return True
        # It may have ended between the two looks.
        return process.exited.done()

    def _watch_of(
        self, process: Process, backend: Backend, work: tuple[bytes, ...] | None
    ) -> Watch:
        return Watch(
            process, backend, self._equipment.asker, self._busy, self.launch.stuck_s, work,
            settled=lambda: self._tell(self, Answered()),
            sick=lambda reason: self._tell(self, Sick(reason)),
        )  # fmt: skip

    def _reason(self, code: int) -> str:
        if self._why is not None:
            return self._why
        said = self._equipment.log_of(self.launch.section.model_id).last_words(LOOKED_AT_LINES)
        lines = telling(line.strip() for line in said)
        return ": ".join([how(code), *([" | ".join(lines)] if lines else [])])[:MAX_REASON]


def telling(said: Iterable[str]) -> list[str]:
    """The last lines, or of these the errors where there are any: behind what went wrong
    llama-server tells of its tidying up."""
    lines = [line for line in said if line]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines)[-REASON_LINES:]
