"""Messages: names in one line, short lists, and the wrapper of every command."""

import os

import pytest

from acmix_jax.errors import UserError, check_choice, first_few, one_line_errors, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"cat 1.png", "cat 1.png"), ("\u00e4\u65e5\u00a0\U0001f408".encode(), "\u00e4\u65e5\u00a0\U0001f408"),
        (b"a\n", r"a\x0a"), (b"a\\x0a", r"a\\x0a"), (b"\xff\xc3", r"\xff\xc3"), (b"\x7f", r"\x7f"),
    ],
)  # fmt: skip
def test_a_name_is_shown_in_one_line(name, shown):
    assert printable(os.fsdecode(name)) == shown


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


def test_a_choice_among_many_has_a_short_message():
    with pytest.raises(UserError, match="unknown model 'q'; choose one of: 0, 1, 2, 3, 4, 5 and 994 more$"):
        check_choice("model", "q", map(str, range(1000)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("lower x"), "error: lower x"),
        (UserError("a library says\nmuch; lower x"), "error: a library says much; lower x"),
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
