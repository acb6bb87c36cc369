"""The exception for mistakes that a user can correct, and the one wrapper that prints it."""

import contextlib
import difflib
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence


class UserError(ValueError):
    """Says in one line what is wrong and what to change."""


def check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    """Raises a UserError with the nearest valid names if `name` is not one of `choices`."""
    choices = list(choices)
    if name in choices:
        return
    raise UserError(f"unknown {what} {name!r}; {nearest(name, choices)}")


def nearest(name: str, choices: Sequence[str]) -> str:
    """A question for up to three choices that resemble `name`; without such, the first few choices."""
    near = [choice for choice in choices if name and choice.startswith(name)]
    near = (near or difflib.get_close_matches(name, choices, cutoff=0.5))[:3]
    if near:
        return f"did you mean {' or '.join(first_few([printable(choice)]) for choice in near)}?"
    return f"choose one of: {first_few(map(printable, choices), count=6, width=40)}"


def first_few(items: Iterable[str], count: int = 3, width: int = 50) -> str:
    """The first items of a list of any length, joined by commas, for a message that stays one line.

    Args:
      count: of items that are named; the others are counted, as in "a, b, c and 5 more".
      width: longest item in characters; the middle of a longer one is left out.
    """
    items = list(items)
    half = (width - 3) // 2
    named = [item if len(item) <= width else f"{item[:half]}...{item[-half:]}" for item in items[:count]]
    more = f" and {len(items) - count:,} more" if len(items) > count else ""
    return ", ".join(named) + more


def printable(name: str) -> str:
    r"""A file's name in one line of valid UTF-8, without two names becoming one.

    Line breaks, other control characters, backslashes and bytes that are not UTF-8 are escaped, such as to \x0a.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_escaped, name))


def _escaped(character):
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):  # control, surrogate, line and paragraph separator
        return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
    return character


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Runs the body of a command; a user's mistake ends it with one line on stderr and exit code 1.

    Ctrl-C ends it with 130, the shell's code for it. Everything else is a bug and keeps its traceback.
    """
    for logger in (logging.getLogger(), logging.getLogger("absl")):  # JAX and Orbax log much during normal operation
        logger.setLevel(logging.ERROR)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).splitlines())}")  # a library's message may have several
