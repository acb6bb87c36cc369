"""The wrapper of every command."""

import pytest

from acmix_jax.errors import UserError, one_line_errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("lower x"), "error: lower x"),
        (FileNotFoundError(2, "No such file", "a"), "error: [Errno 2] No such file: 'a'"),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_mistake_ends_the_command_with_one_line(error, code):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    assert stop.value.code == code


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
