"""The two routers written in Rust: one family, with nearly one set of options.

Each is run twice: as it comes, and lean, which is the least that it can be made to do. As it comes
its policy looks for the backend that may have the prompt cached (vllm-router asks a backend for the
prompt's tokens first, with a request of its own); there is one, and so nothing to be won by that.
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from benchmarks.adapter import Launch
from benchmarks.peers.environment import PythonPackage, how_to_install
from benchmarks.process import free_port

_COMES = "as it comes: `cache_aware` policy, log level info, metrics, a thread per core"
_LEAN = "`--policy round_robin`, warnings only; metrics as they come; on one thread"
# Neither has an option for it: it is their runtime's. Two threads cost more in all than one.
_ONE_THREAD = (("TOKIO_WORKER_THREADS", "1"),)


@frozen
class RustRouter:
    """`program`: in the environment, with what precedes the options. `options`: besides those that
    say where it listens and what is behind it."""

    name: str
    environment: PythonPackage
    program: tuple[str, ...]
    setting: str = _COMES
    options: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    may_fail: bool = True

    @property
    def install(self) -> str:
        return how_to_install(self.environment)

    def version(self) -> str | None:
        return self.environment.version()

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        path, *rest = self.program
        listen = ("--host", "127.0.0.1", "--port", str(port))
        worker = ("--worker-urls", f"http://127.0.0.1:{upstream_port}")
        metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
        argv = (self.environment.program(path), *rest, *listen, *worker, *metrics, *self.options)
        return Launch(argv, dict(self.environ))


SGLANG = PythonPackage("sglang-router")
VLLM = PythonPackage("vllm-router")

ROUTERS = (
    RustRouter("sglang-router", SGLANG, ("sglang-router", "launch")),
    RustRouter(
        "sglang-router-lean",
        SGLANG,
        ("sglang-router", "launch"),
        setting=_LEAN,
        options=("--policy", "round_robin", "--log-level", "warn"),
        environ=_ONE_THREAD,
    ),
    RustRouter("vllm-router", VLLM, ("vllm-router",)),
    RustRouter(
        "vllm-router-lean",
        VLLM,
        ("vllm-router",),
        setting=_LEAN,
        options=("--policy", "round_robin", "--log-level", "warning"),
        environ=_ONE_THREAD,
    ),
)
