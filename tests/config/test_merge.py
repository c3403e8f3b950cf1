from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rolemesh.config.merge import merge
from rolemesh.config.tree import Leaf, Map, Origin, Tree, at, from_plain, plain

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), VALUES)


def tree(value: dict[str, Any], file: str) -> Map:
    found = from_plain(value, Origin(file, 1))
    assert isinstance(found, Map)
    return found


def merged(base: dict[str, Any], over: dict[str, Any]) -> Map:
    return merge(tree(base, "base"), tree(over, "over"))


@given(MAPPINGS)
def test_nothing_laid_over_changes_nothing(base: dict[str, Any]) -> None:
    assert merged(base, {}) == tree(base, "base")


@given(MAPPINGS, MAPPINGS)
def test_laying_the_same_over_twice_is_laying_it_over_once(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    once = merged(base, over)
    assert merge(once, tree(over, "over")) == once


@given(MAPPINGS, MAPPINGS)
def test_the_later_file_has_the_last_word(base: dict[str, Any], over: dict[str, Any]) -> None:
    result = plain(merged(base, over))
    for name in base.keys() | over.keys():
        both = isinstance(base.get(name), dict) and isinstance(over.get(name), dict)
        if name not in over:
            assert result[name] == base[name]
        elif not both:
            assert result[name] == over[name]
        else:
            assert result[name] == plain(merged(base[name], over[name]))


def leaves(part: Tree, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Tree]]:
    if isinstance(part, Map):
        return [
            found for name, each in part.entries.items() for found in leaves(each, (*path, name))
        ]
    return [(path, part)]


@given(MAPPINGS, MAPPINGS)
def test_every_leaf_keeps_the_place_where_it_was_written(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    sources = {"base": tree(base, "base"), "over": tree(over, "over")}
    for path, leaf in leaves(merged(base, over)):
        assert at(sources[leaf.origin.file], path) == leaf


def test_a_list_is_replaced_and_not_joined() -> None:
    assert plain(merged({"a": [1, 2]}, {"a": [3]})) == {"a": [3]}


def test_null_stays_in_the_result_with_its_own_place() -> None:
    found = merged({"a": {"b": 1}}, {"a": None}).entries["a"]
    assert found == Leaf(None, "null", Origin("over", 1))


def test_a_section_after_a_null_starts_afresh() -> None:
    first = merged({"a": {"b": 1}}, {"a": None})
    assert plain(merge(first, tree({"a": {"c": 2}}, "third"))) == {"a": {"c": 2}}
