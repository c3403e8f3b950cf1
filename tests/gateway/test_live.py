from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from tests.gateway.configured import live


def test_what_is_configured_is_compiled_once(tmp_path: Path) -> None:
    made = live(
        tmp_path,
        default_model="writer",
        auth={"client_api_keys": ["c"], "node_api_keys": ["n"], "admin_api_keys": ["a", "b"]},
        gateway={"max_body_bytes": 1000},
    )
    assert [alias.name for alias in made.table.aliases] == ["writer", "reviewer"]
    assert made.table.default is made.table.get("writer")
    assert (len(made.clients), len(made.nodes), len(made.admins)) == (1, 1, 2)
    assert made.max_body_bytes == 1000
    assert made.labels == ["writer/proxy"]
    assert not made.has_trusted_proxies


def test_trusted_proxies_may_be_networks_addresses_and_names(tmp_path: Path) -> None:
    made = live(
        tmp_path,
        gateway={"trusted_proxies": ["10.0.0.0/8", "192.0.2.1", "2001:db8::1", "localhost"]},
    )
    networks = set(made.trusted_proxies)
    assert {ip_network("10.0.0.0/8"), ip_network("192.0.2.1"), ip_network("2001:db8::1")} < networks
    assert networks & {ip_network("127.0.0.1"), ip_network("::1")}


def test_a_name_without_an_address_is_believed_from_nowhere_but_counts_as_trusting(
    tmp_path: Path,
) -> None:
    made = live(tmp_path, gateway={"trusted_proxies": ["x" * 63 + ".invalid"]})
    assert made.trusted_proxies == ()
    assert made.has_trusted_proxies
