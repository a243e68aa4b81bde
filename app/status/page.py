"""The view as HTML: a pure function of the value. Every text is escaped by the templates.

The page carries its own style and script, known to the browser by their hashes: nothing else runs or loads.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from app.status import numbers
from app.status.history import GRAIN_S, MAX_SAMPLES, Sample
from app.status.view import Attainment, RankLoad, StatusView

# Shares above which a bar asks for attention, then for action.
HIGH_SHARE = 0.85
FULL_SHARE = 0.95
# An engine that has said nothing for so long is shown with its age.
QUIET_S = 3.0
SPARK_WIDTH, SPARK_HEIGHT = 300, 40


def main_html(view: StatusView) -> str:
    """The content of `<main>`: what an event replaces."""
    return _templates.get_template("main.html").render(view=view)


def page_html(view: StatusView, main: str) -> str:
    """The whole page around it."""
    return _templates.get_template("page.html").render(
        view=view, main=Markup(main), style=Markup(_style), script=Markup(_script)
    )


def bar(share: float, warns: bool = False) -> Markup:
    """A bar of a share, 0 to 1, beside the figure that says it; `warns` where much is too much."""
    width = 100 * min(1.0, max(0.0, share))
    level = "normal"
    if warns and share > HIGH_SHARE:
        level = "full" if share > FULL_SHARE else "high"
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="{}" width="{}" height="6"/></svg>'
    ).format(level, f"{width:.1f}")


def spark(samples: Sequence[Sample]) -> Markup:
    """The queue's length over the last minutes as a line; silent to screen readers, which get the figures."""
    end_s = samples[-1].at_s
    top = max(1, *(one.queued for one in samples))
    span_s = GRAIN_S * MAX_SAMPLES
    points = [
        (
            SPARK_WIDTH * (1 - (end_s - one.at_s) / span_s),
            (SPARK_HEIGHT - 2) * (1 - one.queued / top) + 1,
        )
        for one in samples
        if end_s - one.at_s <= span_s
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"{points[0][0]:.1f},{SPARK_HEIGHT} {line} {points[-1][0]:.1f},{SPARK_HEIGHT}"
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">'
        '<polygon points="{}"/><polyline points="{}"/></svg>'
    ).format(SPARK_WIDTH, SPARK_HEIGHT, area, line)


def clock(at_s: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at_s))


def by_promise(
    attainment: Sequence[Attainment],
) -> list[tuple[str, str, float, dict[float, Attainment]]]:
    """One row a class and promise: their names, the objective, and what was kept by window."""
    rows: dict[tuple[str, str, float], dict[float, Attainment]] = {}
    for one in attainment:
        rows.setdefault((one.class_name, one.promise, one.objective), {})[one.window_s] = one
    return [(*row, by_window) for row, by_window in rows.items()]


def hosts(loads: Iterable[RankLoad]) -> list[str]:
    """Of `CPU of node-a` the node, each once, in order."""
    return list(dict.fromkeys(one.device.rpartition(" of ")[2] for one in loads))


def _inline(name: str) -> str:
    assert _templates.loader is not None
    return _templates.loader.get_source(_templates, name)[0].strip()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_templates = Environment(
    loader=PackageLoader("app.status"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_templates.filters |= {
    "count": numbers.count,
    "seconds": numbers.seconds,
    "percent": numbers.percent,
    "size": numbers.size,
    "clock": clock,
    "by_promise": by_promise,
    "hosts": hosts,
}
_templates.globals |= {"bar": bar, "spark": spark, "unknown": numbers.UNKNOWN, "quiet_s": QUIET_S}
_style, _script = _inline("style.css"), _inline("live.js")

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src '{_hash(_style)}'; script-src '{_hash(_script)}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
