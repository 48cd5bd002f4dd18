"""Tools end in one sentence for the user's mistakes and in a traceback for ours."""

from __future__ import annotations

import pytest

from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.errors import ConfigError


def _raise(error: Exception) -> None:
    raise error


def test_user_error_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: _raise(ConfigError("SEED is x; expected a number")))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: SEED is x; expected a number\n"


def test_unusable_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: (tmp_path / "file" / "below").mkdir(parents=True))
    assert stop.value.code == 2
    assert "cannot use" in (text := capsys.readouterr().err) and str(tmp_path / "file") in text


def test_our_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: _raise(ZeroDivisionError()))
    with pytest.raises(OSError, match="no file named"):
        run_tool(lambda: _raise(OSError("no file named")))


def test_status_is_passed_on() -> None:
    for given, code in ((None, 0), (3, 3)):
        with pytest.raises(SystemExit) as stop:
            run_tool(lambda given=given: given)
        assert stop.value.code == code
