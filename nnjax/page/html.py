"""HTML in one file: elements whose texts are escaped, and a page that holds all that it needs.

A text becomes part of a page only through `element`, which escapes it: names of classes, of runs
and of files come from people, and must not become HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

__all__ = ["Html", "document", "element", "join", "require_page", "table"]

_GENERATOR = '<meta name="generator" content="nnjax">'  # tells pages from other files

_VOID = ("br", "img", "input")


class Html(str):
    """A text that is HTML already, and is not escaped again."""


def element(tag: str, *content: Any, **attributes: Any) -> Html:
    """Return an HTML element; texts in it are escaped, `Html` is not.

    Args:
        tag: its name, such as "p".
        content: texts, numbers and elements.
        attributes: by name, without those that are None; `class_` is class, `data_x` is data-x.

    Example:
        >>> from nnjax.page.html import element
        >>> print(element("p", "a < b, ", element("b", "bold"), class_="note"))
        <p class="note">a &lt; b, <b>bold</b></p>
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{named}>" + ("" if tag in _VOID else f"{join(content)}</{tag}>"))


def join(content: Iterable[Any]) -> Html:
    """Return texts and elements one after the other, the texts escaped.

    Example:
        >>> from nnjax.page.html import element, join
        >>> print(join(["<", element("br")]))
        &lt;<br>
    """
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in content))


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str) -> Html:
    """Return a table whose first column names the rows, in a frame that scrolls where it is wide.

    Args:
        header: the names of the columns.
        rows: texts, or cells that are elements already.
        caption: says what the table holds.

    Example:
        >>> from nnjax.page.html import table
        >>> whole = table(["epoch", "accuracy"], [(1, "98 %")], "Accuracy by epoch")
        >>> "<td>98 %</td>" in whole, "<caption>Accuracy by epoch</caption>" in whole
        (True, True)
    """

    def cell(value: Any, first: bool) -> Html:
        if isinstance(value, Html) and value.startswith(("<td", "<th")):
            return value
        return element("th", value, scope="row") if first else element("td", value)

    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = [element("tr", *(cell(v, i == 0) for i, v in enumerate(row))) for row in rows]
    content = element("caption", caption), element("thead", head), element("tbody", *body)
    whole = element("table", *content)
    return element("div", whole, class_="wide", tabindex=0, role="region", aria_label=caption)


def document(title: str, body: Iterable[Any], scripts: Sequence[str] = (), data: Any = None) -> str:
    """Return a whole page: one file, with styles, scripts and data in it; it asks for no other.

    Args:
        title: of the page.
        body: its sections.
        scripts: names of files beside this one, in the order in which they are read.
        data: of the kinds that JSON has; the scripts find it as `DATA`.

    Example:
        >>> from nnjax.page.html import document, element
        >>> page = document("A & B", [element("p", "text")], data={"text": "</script>"})
        >>> "<title>A &amp; B</title>" in page, "</script>" in page.split("DATA")[-1][:30]
        (True, False)
    """
    # "<" could end the script, or begin a comment in it; inside JSON it has another spelling.
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    code = "".join(_asset(name) for name in scripts)
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        generator=_GENERATOR,
        style=_asset("page.css"),
        body=join(body),
        data=content,
        code=code,
    )


def require_page(path: Path) -> None:
    """Raise FileExistsError if a file is there that is not a page written by nnjax.

    Example:
        >>> from pathlib import Path
        >>> from nnjax.page.html import require_page
        >>> require_page(Path("no-such-file.html"))
    """
    if path.exists() and _GENERATOR.encode() not in _beginning(path):
        raise FileExistsError(
            f"{path} exists and is not a page written by nnjax; choose another --out"
        )


def _beginning(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(1000)


def _asset(name: str) -> str:
    return files("nnjax.page").joinpath(name).read_text(encoding="utf-8")
