"""Makes HTML of a `Page`: one Jinja2 environment, autoescape always on, and what its templates use.

The filters for people: `visible` for names and one-line texts, `error` for that of a run's row,
`lines` for tracebacks, `moment` for times, `since` for ages, `duration` for seconds, `number` for
counts, `size` for bytes. `exact` is for attributes that are sent back: without it, a hidden
character becomes its code in whatever a template prints. A form about one thread names it in its
action, because browsers change line ends in fields.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from aiodurable.byte_size import byte_size
from aiodurable.dashboard.advice import stored_with_buttons
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.navigation import PAGES
from aiodurable.dashboard.visible import visible, visible_lines

__all__ = ["STATIC", "duration", "rendered", "rendered_block"]

STATIC = Path(__file__).parent / "static"
LIVE_BLOCK = "live"
"""The block of a page that a stream sends again, and that a filter replaces."""


def rendered(context: Context, page: Page) -> str:
    """The whole page."""
    return _environment().get_template(page.template).render(_values(context, page))


def rendered_block(context: Context, page: Page, block: str = LIVE_BLOCK) -> str:
    """One block of the page; without that block, nothing."""
    template = _environment().get_template(page.template)
    made = template.new_context(_values(context, page))
    if block not in template.blocks:
        return ""
    return "".join(template.blocks[block](made))


def duration(seconds: float | timedelta | None) -> str:
    """A length of time in its two largest units: `3 d 4 h`, `2 min 5 s`, `820 ms`."""
    if seconds is None:
        return "–"
    left = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    sign, left = ("−", -left) if left < 0 else ("", left)
    if left < 1:
        return f"{sign}{left * 1000:.0f} ms"
    if left < 10:
        return f"{sign}{left:.1f} s"
    parts: list[str] = []
    whole = round(left)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return sign + " ".join(parts)


def _values(context: Context, page: Page) -> dict[str, Any]:
    return {
        "context": context,
        "url": context.url,
        "here": context.here,
        "static": partial(_static, context),
        "navigation": PAGES,
        "title": context.options.title,
        "read_only": context.options.read_only,
        "flash": context.session.flash,
        "form_token": context.session.token,
        **page.values,
    }


def _static(context: Context, name: str) -> str:
    return context.url(f"/static/{name}", v=_version(name))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("aiodurable.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalised,
    )
    environment.filters |= {
        "visible": visible,
        "error": _error,
        "exact": _exact,
        "lines": visible_lines,
        "moment": _moment,
        "since": _since,
        "duration": duration,
        "number": _number,
        "size": byte_size,
    }
    # Not an import in base.html: a block that is rendered alone would not have it.
    parts: dict[str, Any] = {
        name: environment.get_template(f"{name}.html").module
        for name in ("parts", "state_parts", "operations")
    }
    environment.globals.update(parts)
    return environment


def _error(stored: str) -> str:
    return visible(stored_with_buttons(stored))


def _finalised(value: Any) -> Any:
    """None is a dash wherever a template prints it; every text shows its hidden characters."""
    if value is None:
        return "–"
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible_lines(value)
    return value


def _exact(text: str) -> Markup:
    """A text as it is, for attributes that are sent or copied, not seen."""
    escaped = str(escape(text)).replace("\r", "&#13;").replace("\n", "&#10;")
    return Markup(escaped)  # noqa: S704 - escaped the line before


def _moment(at: datetime | None, attribute: str = "") -> Markup | str:
    """A time that the browser writes in its own time zone; without scripts it is UTC."""
    if at is None:
        return "–"
    utc = at.astimezone(UTC)
    text = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}"{}>{}</time>').format(utc.isoformat(), attribute, text)


def _since(at: datetime | None) -> Markup | str:
    """A time that the browser writes as an age and keeps current. The page itself has the moment:
    an age would be another page each second.
    """
    return _moment(at, " data-ago")


def _number(count: float | None) -> str:
    """A count with thin spaces between thousands."""
    if count is None:
        return "–"
    digits = 0 if isinstance(count, int) else 1 if abs(count) >= 1 else 3
    return f"{count:,.{digits}f}".replace(",", "\u202f")


@cache
def _version(name: str) -> str:
    """A part of the file's digest, so that browsers may keep it for ever."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
