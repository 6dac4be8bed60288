"""One sentence for options that do not parse, in place of tyro's boxes."""

from __future__ import annotations

import difflib
import re

from nnjax.checks import did_you_mean

__all__ = ["sentence"]

_KINDS = {"INT": "integers", "FLOAT": "numbers"}


def sentence(box: str) -> str:
    """Return what tyro writes in a box as one sentence.

    Args:
        box: what it writes to stderr; colours, as for a terminal, do not count.

    Example:
        >>> from nnjax.cli.refusals import sentence
        >>> print(sentence('''
        ... ╭─ Value error ─────────────────────────────────────────────────────────╮
        ... │ Error parsing --epochs: invalid literal for int() with base 10: 'ten' │
        ... │ ───────────────────────────────────────────────────────────────────── │
        ... │ For full helptext, see nnjax --help                                   │
        ... ╰───────────────────────────────────────────────────────────────────────╯'''))
        --epochs: 'ten' is not an integer
    """
    box = re.sub(r"\x1b\[[\d;]*m", "", box)  # the colours
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"[─-]{5,}", "\n".join(lines))
    message, *others = sections if "│" in box else sections[1:]  # without a frame the title is one
    message = " ".join(message.split())
    choice = r"invalid choice '(.*)' for argument '(\S+)'\. Expected .*?\((.*)\)"
    if found := re.match(choice, message):
        value, option, listed = found.groups()
        choices = [word for word in re.findall(r"'([^']*)'", listed) if word != "None"]
        hint = did_you_mean(value, choices)
        return f"{option}: invalid choice {value!r}{hint}; expected one of {', '.join(choices)}"
    if found := re.match(r"Error parsing (\S+): (.*)", message):
        option, reason = found.groups()
        if not option.startswith("--"):  # several options together make a value that is refused
            return reason
        if reason.startswith("Could not find valid parse"):
            given = " ".join(re.findall(r"'([^']*)'", reason))
            metavar = re.search(rf"{option} \[?(\w+)", "\n".join(others))
            kind = _KINDS.get(metavar[1]) if metavar else None
            return f"{option}: got {given!r}; expected {kind or 'another value, see --help'}"
        for call, kind in (("int", "an integer"), ("float", "a number")):
            if value := re.search(rf"\b{call}\b.*: ('[^']*')$", reason):
                return f"{option}: {value[1]} is not {kind}"
        return f"{option}: {reason}"
    if found := re.search(r"(--\S+) \(applied to nnjax (\w+)\)", message):  # others have it
        return f"nnjax {found[2]} has no option {found[1]}; see nnjax {found[2]} --help"
    if message.startswith("Unrecognized options"):
        known = re.findall(r"^(--[\w.-]+)", "\n".join(others), re.MULTILINE)
        unknown = re.search(r"--[\w.-]+", message)
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0) if unknown else []
        return message + (f" (did you mean {close[0]}?)" if close else "; see --help")
    if found := re.match(r"Missing from nnjax (\w+): \S+ (.*?)\.? \(required\)", message):
        command, what = found.groups()
        return f"nnjax {command} requires an argument: {what[0].lower()}{what[1:]}"
    return message.rstrip(".")
