"""What the black-box tests share: one gateway per module, and aliases of its own for each test.

`config` is what a module overrides to say how its gateway is configured. `solo` and `pair` hand
each test an alias that no other test has used, with one or two fake backends behind it, so that
nothing one test did to a backend is remembered in the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import frozen

pytest.register_assert_rewrite("tests.blackbox.expect")

from tests.blackbox.patience import Patience  # noqa: E402
from tests.fake_backend import FakeBackend  # noqa: E402
from tests.gateway_process import GatewayProcess  # noqa: E402

Config = dict[str, Any]


@frozen
class Solo:
    alias: str
    backend: FakeBackend


@frozen
class Pair:
    """An alias with two backends: `first` is asked before `second`."""

    alias: str
    first: FakeBackend
    second: FakeBackend


class Stock:
    """Aliases for a module's tests. Taken once each; asked for more, the module says so."""

    def __init__(self, solos: int, pairs: int, stack: contextlib.ExitStack) -> None:
        def start() -> FakeBackend:
            return stack.enter_context(FakeBackend())

        self._solos = [Solo(f"solo-{n}", start()) for n in range(solos)]
        self._pairs = [Pair(f"pair-{n}", start(), start()) for n in range(pairs)]
        self.models = {
            **{
                solo.alias: {"type": "proxy", "proxy_url": solo.backend.url} for solo in self._solos
            },
            **{
                pair.alias: {
                    "type": "proxy",
                    "backends": [
                        {"name": name, "base_url": backend.url, "auth_token": f"{name}-token"}
                        for name, backend in (("first", pair.first), ("second", pair.second))
                    ],
                }
                for pair in self._pairs
            },
        }

    def solo(self) -> Solo:
        return self._solos.pop()

    def pair(self) -> Pair:
        return self._pairs.pop()


@pytest.fixture(scope="module")
def stock(request: pytest.FixtureRequest) -> Iterator[Stock]:
    """As many as the module's tests can take."""
    tests = [item for item in request.session.items if item.path == request.path]
    wanted = [getattr(item, "fixturenames", ()) for item in tests]
    with contextlib.ExitStack() as stack:
        yield Stock(
            sum("solo" in names for names in wanted),
            sum("pair" in names for names in wanted),
            stack,
        )


@pytest.fixture(scope="module")
def config() -> Config:
    """What the module's gateway is configured with, besides the aliases in stock."""
    return {}


@pytest.fixture(scope="module")
def gateway(
    config: Config, stock: Stock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """The module's gateway. Stopping it checks that it ended well."""
    whole = {**config, "models": {**stock.models, **config.get("models", {})}}
    with GatewayProcess(whole, tmp_path_factory.mktemp("gateway")) as process:
        yield process


@pytest.fixture
def solo(stock: Stock) -> Solo:
    return stock.solo()


@pytest.fixture
def pair(stock: Stock) -> Pair:
    return stock.pair()


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    """For tests with a gateway of their own."""
    with FakeBackend() as started:
        yield started


# What takes a minute runs beside everything else: begun first, asked for last.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_is_patient)


def _is_patient(item: pytest.Item) -> bool:
    return "patience" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def patience(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patience]:
    begun = Patience(tmp_path_factory.mktemp("patience"))
    yield begun
    begun.stop()


@pytest.fixture(scope="session", autouse=True)
def _begin_early(request: pytest.FixtureRequest) -> None:
    if any(map(_is_patient, request.session.items)):
        request.getfixturevalue("patience")
