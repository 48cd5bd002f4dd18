"""Registry: duplicates, nearest names, temporary entries."""

from __future__ import annotations

import pytest

from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.registry import Registry


@pytest.fixture
def registry() -> Registry:
    table = Registry("THING")
    table.register(name="InfoNCE")(dict)
    table.register(name="NTXent")(list)
    return table


def test_unknown_name_gets_the_nearest_and_the_imports_hint(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"no THING is called 'InfoNce'; did you mean InfoNCE\? .*IMPORTS"):
        registry.get("InfoNce")


def test_duplicate_is_refused_naming_both(registry: Registry) -> None:
    def InfoNCE() -> None: ...

    with pytest.raises(ConfigError, match=r"'InfoNCE' is registered twice: by .* and by .*test_registry\.py"):
        registry.register(InfoNCE)


def test_iteration_is_sorted_and_temporary_entries_go(registry: Registry) -> None:
    with registry.temporarily("Alpha", set):
        assert [name for name, _ in registry] == ["Alpha", "InfoNCE", "NTXent"]
    assert registry.names() == ["InfoNCE", "NTXent"]
