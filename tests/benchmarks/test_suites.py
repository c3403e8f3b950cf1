"""Which works are done, and at which rate those that follow from a gateway's own figures."""

from __future__ import annotations

import pytest
from attrs import evolve

from benchmarks import suites
from benchmarks.figures import Sample
from benchmarks.job import Outcome
from benchmarks.saturation import ThirdOfRequests, ThirdOfStreams
from benchmarks.workloads import Work, prompts


def sample(workload: str, cpu_us: float) -> Sample:
    outcome = Outcome(1, 1, 0, (), elapsed_s=1.0, cpu_s=0.1)
    return Sample("rolemesh", workload, 0, 1, cpu_us / 1e6, 0.0, 0, None, outcome)


BUSY = [sample("streams", 20.0), sample("requests", 100.0)]


def test_a_third_of_what_one_core_can_do_is_asked() -> None:
    work = ThirdOfRequests(duration_s=1.0).after(BUSY)
    assert work is not None
    assert work.beside
    assert work.job.connections / work.job.pace_s == pytest.approx(10_000 / 3)


def test_a_slow_gateway_is_asked_on_few_connections() -> None:
    work = ThirdOfRequests(duration_s=1.0).after([sample("requests", 25_000.0)])
    assert work is not None
    assert work.job.connections == 4
    assert work.job.connections / work.job.pace_s == pytest.approx(40 / 3)


def test_a_third_of_streams_counts_the_request_and_its_events() -> None:
    work = ThirdOfStreams(duration_s=1.0).after(BUSY)
    assert work is not None
    streams_a_second = 1e6 / (100 + 10 * 20) / 3
    assert work.job.connections == round(streams_a_second * 0.25)
    assert not work.job.streams_once


def test_the_tests_own_run_needs_few_open_files() -> None:
    assert max(each.open_at_once for each in suites.tiny()) <= 100


def test_what_follows_from_figures_that_are_not_there_is_not_done() -> None:
    assert ThirdOfRequests(duration_s=1.0).after(BUSY[:1]) is None
    assert ThirdOfStreams(duration_s=1.0).after(BUSY[:1]) is None


def test_what_follows_from_work_that_failed_is_not_done() -> None:
    failed = [evolve(each, units=0) for each in BUSY]
    assert ThirdOfRequests(duration_s=1.0).after(failed) is None
    assert ThirdOfStreams(duration_s=1.0).after([failed[0], BUSY[1]]) is None


def test_a_work_asked_for_by_name_comes_with_what_it_needs() -> None:
    names = [each.name for each in suites.named(suites.full(), ["latency-streams", "idle"])]
    assert names == ["streams", "requests", "latency-streams", "idle"]


@pytest.mark.parametrize("suite", [suites.quick(), suites.full(), suites.tiny()])
def test_memory_is_read_from_fresh_gateways_and_names_are_told_apart(
    suite: tuple[Work, ...],
) -> None:
    assert len({each.name for each in suite}) == len(suite)
    fresh = {each.name for each in suite if each.fresh}
    assert fresh == {"streams", "streams-2000", "idle"} & {each.name for each in suite}


def test_every_work_of_the_long_run_is_in_the_short_one_of_the_tests_in_kind() -> None:
    assert {type(each) for each in suites.tiny()} == {type(each) for each in suites.full()}
    assert prompts("big", kib=1024, duration_s=1.0, connections=8).job.prompt_bytes == 2**20
