"""Whether the code that counts and clocks is still what was imported: a decoder may replace none of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import harness.decoding


@dataclass(frozen=True)
class Held:
    """One function of a namespace as it was at import. ``owner``: the one that holds its code, behind a
    property or a wrapper.
    """

    member: object
    owner: Any
    code: object

    @classmethod
    def of(cls, member: Any) -> Held | None:
        """None for what holds no code."""
        function = member.fget if isinstance(member, property) else member
        if isinstance(function, ModuleType):
            return cls(member, None, None)
        owner = getattr(function, "__wrapped__", function)
        code = getattr(owner, "__code__", None)
        return None if code is None else cls(member, owner, code)


@dataclass(frozen=True)
class Namespace:
    """A module or class that counts and clocks, as it was at import: all of its members, and those that hold
    code.
    """

    where: str
    owner: type | ModuleType
    members: Mapping[str, Any]
    held: Mapping[str, Held]

    @classmethod
    def of(cls, where: str, owner: type | ModuleType) -> Namespace:
        members = dict(vars(owner))
        found = {name: _held(owner, member) for name, member in members.items()}
        held = {name: entry for name, entry in found.items() if entry is not None}
        return cls(where, owner, members, held)

    def touched(self) -> list[str]:
        """Functions that are others now, gone or new. Cheap where nothing was: it runs after every decode
        call.
        """
        names = vars(self.owner)
        moved = [name for name, member in names.items() if member is not self.members.get(name)]
        found = [name for name in moved if name in self.held or _held(self.owner, names[name]) is not None]
        found += [
            name
            for name, held in self.held.items()
            if name not in names or (held.owner is not None and held.owner.__code__ is not held.code)
        ]
        return [f"{self.where}.{name}" for name in found]


def _held(owner: type | ModuleType, member: Any) -> Held | None:
    # The classes of a module are namespaces of their own; its constants hold no code.
    counts = isinstance(owner, type) or isinstance(member, (FunctionType, ModuleType))
    return Held.of(member) if counts else None


def _namespaces() -> list[Namespace]:
    """The modules of the decoding room and their classes."""
    found = []
    for entry in pkgutil.iter_modules(harness.decoding.__path__):
        module = importlib.import_module(f"{harness.decoding.__name__}.{entry.name}")
        found.append(Namespace.of(module.__name__, module))
        found += [
            Namespace.of(f"{module.__name__}.{name}", member)
            for name, member in vars(module).items()
            if isinstance(member, type) and member.__module__ == module.__name__
        ]
    return found


_NAMESPACES = _namespaces()


def touched() -> list[str]:
    """Names of the decoding room's functions that are no longer as they were imported."""
    return [name for space in _NAMESPACES for name in space.touched()]
