"""One sentence for options that do not parse, in place of tyro's boxes."""

from __future__ import annotations

import re

from nnjax.checks import did_you_mean

__all__ = ["sentence"]


def sentence(box: str) -> str:
    """Return what tyro writes in a box as one sentence.

    Args:
        box: what it writes to stderr, without colours.

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
        for call, kind in (("int", "an integer"), ("float", "a number")):
            if value := re.search(rf"\b{call}\b.*: ('[^']*')$", reason):
                return f"{option}: {value[1]} is not {kind}"
        return f"{option}: {reason}"
    if message.startswith("Unrecognized options"):
        close = re.findall(r"^(--[\w.-]+)", "\n".join(others), re.MULTILINE)
        return message + (f" (did you mean {close[0]}?)" if close else "; see --help")
    if found := re.match(r"Missing from nnjax (\w+): \S+ (.*?)\.? \(required\)", message):
        command, what = found.groups()
        return f"nnjax {command} requires an argument: {what[0].lower()}{what[1:]}"
    return message.rstrip(".")
