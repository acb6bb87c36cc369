"""The one exception for a mistake that the user can mend: main.py prints it as a single line, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says in one line what is wrong and what to change."""


def check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    """Raises a UserError with the nearest valid names if `name` is not one of `choices`."""
    choices = list(choices)
    if name in choices:
        return
    near = [choice for choice in choices if name and choice.startswith(name)]
    near = (near or difflib.get_close_matches(name, choices, cutoff=0.5))[:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {', '.join(choices)}"
    raise UserError(f"unknown {what} {name!r}; {hint}")
