"""The wrapper of every command."""

import pytest

from acmix_jax.errors import UserError, first_few, one_line_errors


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


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([], ""),
        (["a", "b", "c"], "a, b, c"),
        ("abcdefg", "a, b, c and 4 more"),
        (["x" * 20], f"{'x' * 3}...{'x' * 3}"),
    ],
)
def test_long_lists_and_long_names_are_short_in_messages(items, text):
    assert first_few(items, width=10) == text
