"""The one registry class of the project, built on fvcore's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fvcore.common.registry import Registry as _FvcoreRegistry

from ssl_loc.utils.errors import ConfigError, did_you_mean


class Registry(_FvcoreRegistry):
    """Maps names to classes or functions.

    Example::

        METHOD_REGISTRY = Registry("METHOD")

        @METHOD_REGISTRY.register()
        class MoCo(Method): ...

    A duplicate name is refused naming both files; an unknown name is answered with the nearest names and the
    ``IMPORTS`` line that project parts need. Iterating yields ``(name, object)`` sorted by name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def _do_register(self, name: str, obj: Any) -> None:
        if name in self._obj_map:
            raise ConfigError(
                f"{self._name} '{name}' is registered twice: by {_where(self._obj_map[name])} and by {_where(obj)}; "
                "give one of them another name"
            )
        super()._do_register(name, obj)

    def register(self, obj: Any = None, name: str | None = None) -> Any:
        """Register ``obj``; use as ``@R.register()``, ``@R.register(name="x")`` or ``R.register(obj)``."""
        if obj is not None:
            self._do_register(name or obj.__name__, obj)
            return obj

        def decorator(target: Callable) -> Callable:
            self._do_register(name or target.__name__, target)
            return target

        return decorator

    def get(self, name: str) -> Any:
        """Return the object registered as ``name``; raise :class:`ConfigError` with the nearest names otherwise."""
        if name not in self._obj_map:
            known = ", ".join(sorted(self._obj_map)) or "none"
            raise ConfigError(
                f"no {self._name} is called '{name}'{did_you_mean(name, self._obj_map) or '.'} Known: {known}. "
                f'If it lives in a project, add its file to the yaml: IMPORTS: ["./your_file.py"]'
            )
        return self._obj_map[name]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(sorted(self._obj_map.items()))

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._obj_map)

    @contextmanager
    def temporarily(self, name: str, obj: Any) -> Iterator[None]:
        """Register ``obj`` for the length of a ``with`` block (tests do not pollute the table)."""
        self._do_register(name, obj)
        try:
            yield
        finally:
            del self._obj_map[name]


def _where(obj: Any) -> str:
    try:
        return f"{inspect.getsourcefile(obj)}:{inspect.getsourcelines(obj)[1]}"
    except (TypeError, OSError):
        return repr(obj)
