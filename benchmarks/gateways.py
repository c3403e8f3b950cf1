"""The gateways that are compared: RoleMesh, the two proxies that are the limit, and its peers.

Those that may fail, the peers, are run in a long run only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from benchmarks.adapter import Gateway, Launch
from benchmarks.peers import PEERS
from benchmarks.script import MODEL
from rolemesh import __version__

CLIENT_KEY = "benchmark-client-key"  # made up; the gateway listens on loopback


def rolemesh(
    directory: Path, port: int, auth: Mapping[str, object], models: Mapping[str, object]
) -> Launch:
    """RoleMesh as it comes, but for addresses, keys and models."""
    config = {
        "version": 1,
        "default_model": MODEL,
        "gateway": {
            "host": "127.0.0.1",
            "port": port,
            "state_path": str(directory / "gateway.json"),
        },
        "auth": auth,
        "models": models,
    }
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return Launch((sys.executable, "-m", "rolemesh", "gateway", "--config", str(path)))


@frozen
class RoleMesh:
    name: str = "rolemesh"
    headers: tuple[tuple[str, str], ...] = (("Authorization", f"Bearer {CLIENT_KEY}"),)
    setting: str = (
        "as it comes: one client key, metrics, request ids, a JSON access line per request to a"
        " file; one proxy alias"
    )
    install: str = "pip install rolemesh"
    may_fail: bool = False

    def version(self) -> str | None:
        return __version__

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        proxy = {"type": "proxy", "proxy_url": f"http://127.0.0.1:{upstream_port}"}
        return rolemesh(directory, port, {"client_api_keys": [CLIENT_KEY]}, {MODEL: proxy})


@frozen
class Nginx:
    name: str = "nginx"
    headers: tuple[tuple[str, str], ...] = ()
    setting: str = (
        "one worker, `proxy_buffering off`, keep-alive to the upstream; no keys, no access log"
    )
    install: str = "apt install nginx"
    may_fail: bool = False

    def version(self) -> str | None:
        return _told("nginx", "-v", r"nginx/(\S+)")

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "\n".join(
            f"  {kind}_temp_path {directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = directory / "nginx.conf"
        path.write_text(
            f"""{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8000; }}
http {{
{temporary}
  access_log off;
  client_max_body_size 32m;
  client_body_buffer_size 64k;
  keepalive_requests 1000000000;
  upstream backend {{
    server 127.0.0.1:{upstream_port};
    keepalive 4096;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""
        )
        program = _program("nginx") or "nginx"
        return Launch((program, "-c", str(path), "-p", str(directory), "-e", "stderr"))


@frozen
class HAProxy:
    name: str = "haproxy"
    headers: tuple[tuple[str, str], ...] = ()
    setting: str = "one thread, `http-reuse always`, `option http-no-delay`; no keys, no log"
    install: str = "apt install haproxy"
    may_fail: bool = False

    def version(self) -> str | None:
        return _told("haproxy", "-v", r"version (\S+)")

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        path = directory / "haproxy.cfg"
        path.write_text(
            f"""global
  nbthread 1
  maxconn 8000
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-no-delay
frontend in
  bind 127.0.0.1:{port} backlog 8192
  default_backend out
backend out
  http-reuse always
  server upstream 127.0.0.1:{upstream_port}
"""
        )
        return Launch((_program("haproxy") or "haproxy", "-db", "-f", str(path)))


GATEWAYS: tuple[Gateway, ...] = (Nginx(), HAProxy(), RoleMesh(), *PEERS)


def _program(name: str) -> str | None:
    """Debian puts daemons where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _told(name: str, option: str, pattern: str) -> str | None:
    program = _program(name)
    if program is None:
        return None
    told = subprocess.run([program, option], capture_output=True, text=True, check=False)
    found = re.search(pattern, told.stdout + told.stderr)
    return found[1] if found else "unknown"
