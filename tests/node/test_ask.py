"""What is believed of a server's own figures."""

from __future__ import annotations

import pytest

from rolemesh.node.ask import MAX_COUNT, _count


@pytest.mark.parametrize("told", [0, -1, True, 4.0, "4", None, MAX_COUNT + 1, 10**30])
def test_what_is_no_count_is_not_told(told: object) -> None:
    assert _count(told) is None
    assert _count(MAX_COUNT) == MAX_COUNT
