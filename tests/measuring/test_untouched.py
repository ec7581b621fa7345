"""Every way to put other code in the place of what counts is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.measuring.untouched import Namespace, touched


def _counts() -> type:
    class Counts:
        limit = 5
        spare = 1

        def add(self) -> int:
            return self.limit

        @property
        def total(self) -> int:
            return self.limit

    return Counts


def _replace(owner: Any) -> None:
    owner.add = lambda self: 0


def _replace_code(owner: Any) -> None:
    owner.add.__code__ = (lambda self: 0).__code__


def _replace_property(owner: Any) -> None:
    owner.total = property(lambda self: 0)


def _value_becomes_property(owner: Any) -> None:
    owner.limit = property(lambda self: 0)


def _new_in_the_place_of_a_value(owner: Any) -> None:
    del owner.spare
    owner.__getattribute__ = lambda self, name: 0


def _remove(owner: Any) -> None:
    del owner.add


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_replace, "add"),
        (_replace_code, "add"),
        (_replace_property, "total"),
        (_value_becomes_property, "limit"),
        (_new_in_the_place_of_a_value, "__getattribute__"),
        (_remove, "add"),
    ],
)
def test_changed_code_is_named(change: Callable[[Any], None], name: str) -> None:
    owner = _counts()
    space = Namespace.of("here", owner)
    assert space.touched() == []
    change(owner)
    assert space.touched() == [f"here.{name}"]


def test_a_changed_value_is_no_code() -> None:
    owner: Any = _counts()
    space = Namespace.of("here", owner)
    owner.limit = 6
    assert space.touched() == []


def test_the_decoding_room_is_as_it_was_imported() -> None:
    assert touched() == []
