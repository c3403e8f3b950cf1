from __future__ import annotations

import pytest

from rolemesh.server.progress import STALLED_S, Progress


@pytest.mark.parametrize(
    ("looks", "stalled"),
    [
        # (written, unsent, now)
        ([(100, 0, 0.0), (100, 0, 1000.0)], False),
        ([(100, 40, 0.0), (100, 40, STALLED_S)], False),
        ([(100, 40, 0.0), (100, 40, STALLED_S + 1)], True),
        # What is written anew is no progress of the client's.
        ([(100, 40, 0.0), (900, 840, STALLED_S + 1)], True),
        # One byte is.
        ([(100, 40, 0.0), (900, 839, 50.0), (900, 839, 61.0)], False),
        ([(100, 40, 0.0), (900, 839, 50.0), (900, 839, 111.0)], True),
        # Nothing unsent: the clock starts anew.
        ([(100, 40, 0.0), (100, 0, 50.0), (200, 40, 90.0), (200, 40, 140.0)], False),
        ([(100, 100, 500.0), (100, 100, 500.0 + STALLED_S + 1)], True),
        # Another protocol wrote what waits.
        ([(0, 40, 0.0), (10, 50, STALLED_S + 1)], True),
        ([(0, 40, 0.0), (10, 49, STALLED_S + 1)], False),
    ],
)
def test_a_client_that_takes_nothing_of_what_waits_is_stalled(
    looks: list[tuple[int, int, float]], stalled: bool
) -> None:
    progress = Progress()
    assert [progress.is_stalled(*look) for look in looks][-1] is stalled
