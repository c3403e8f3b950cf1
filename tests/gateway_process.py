"""A real gateway in a process of its own: see `daemon_process`."""

from __future__ import annotations

from tests.daemon_process import ROOT, DaemonProcess, chat_body, eventually

__all__ = ["ROOT", "GatewayProcess", "chat_body", "eventually"]


class GatewayProcess(DaemonProcess):
    """`with GatewayProcess(config, tmp_path) as gateway: gateway.chat("writer")`."""

    word = "gateway"
