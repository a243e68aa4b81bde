"""The report as one HTML page: no script, nothing from elsewhere, pictures as SVG in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from app.validation.measured import Filling, Latency, NotMeasured, Ranks, Throughput
from app.validation.report import Report, measured_text, promised_text
from app.validation.verdicts import Status, Verdict, rank_loads
from placement.plot import Series, scatter

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --pass: #1a7f37; --fail: #c4201d; --none: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --pass: #5fd07b; --fail: #ff8078; --none: #e0b040; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
.pass { color: var(--pass); } .fail { color: var(--fail); font-weight: bold; } .none { color: var(--none); }
.pictures { display: grid; gap: 1rem; }
@media (min-width: 60rem) { .pictures { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; } svg { max-width: 100%; height: auto; border-radius: .4rem; }
@media (max-width: 44rem) {
  thead { display: none; } tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line); }
  td, td.n { display: block; padding: 0; border: 0; white-space: normal; }
  td::before { content: attr(data-name) " "; opacity: .7; }
}
"""
_CLASSES = {Status.PASS: "pass", Status.FAIL: "fail", Status.NOT_MEASURABLE: "none"}


def report_page(report: Report) -> str:
    """The whole page."""
    verdict = "All measured promises are kept" if report.kept else "A promise is broken"
    title = f"{report.model}: {verdict.lower()}"
    rows = "\n".join(map(_row, report.verdicts))
    pictures = "\n".join(f"<figure>{picture}</figure>" for picture in _pictures(report))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><main>
<h1>{escape(report.model)}: <span class="{"pass" if report.kept else "fail"}">{escape(verdict)}</span></h1>
<p>{escape(report.summary)}. {escape(report.application)} at {escape(report.url)}, {escape(report.taken_at)},
measured in {report.seconds:.0f} s.</p>
<div class="table"><table><thead><tr><th>Promise</th><th>Promised</th><th>Measured</th><th>Verdict</th>
<th>How</th></tr></thead><tbody>
{rows}
</tbody></table></div>
<h2>Pictures</h2>
<div class="pictures">
{pictures}
</div>
</main></body></html>
"""


def _row(verdict: Verdict) -> str:
    cells = [
        ("", "", f"<b>{escape(verdict.title)}</b>"),
        ("n", "promised", escape(promised_text(verdict))),
        ("n", "measured", escape(measured_text(verdict))),
        (f"n {_CLASSES[verdict.status]}", "", escape(verdict.status)),
        ("", "", escape(verdict.detail)),
    ]
    row = "".join(f'<td class="{kind}" data-name="{name}">{text}</td>' for kind, name, text in cells)
    return f"<tr>{row}</tr>"


def _pictures(report: Report) -> Iterator[str]:
    measured = report.measurements
    if isinstance(measured.latency, Latency):
        promised = {verdict.promise: verdict.promised for verdict in report.verdicts}
        yield from _latency(measured.latency, promised)
    if isinstance(measured.throughput, Throughput):
        yield from _throughput(measured.throughput)
    if isinstance(measured.filling, Filling):
        yield from _filling(measured.filling)
    if not isinstance(measured.ranks_loaded, NotMeasured):
        yield from _loads(measured.ranks_loaded)


def _latency(latency: Latency, promised: Mapping[str, float]) -> Iterator[str]:
    """A promise is a point that the curve has to pass on the left."""
    for name, measure, values in (
        ("Time to first token", "ttft", latency.ttfts_ms),
        ("Time per output token", "tpot", latency.tpots_ms),
    ):
        points = [(promised[f"{measure}_p{share}_ms"], float(share), f"P{share}") for share in (50, 99)]
        if values:
            series = [_distribution(values), Series("promised", points)]
            yield scatter(f"{name}, {latency.streams} at a time", "ms", "% of requests", series)


def _distribution(values: Sequence[float]) -> Series:
    """The share of requests that were at most so slow."""
    ordered = sorted(values)
    shares = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
    points = [(value, share, f"{value:.1f} ms") for value, share in zip(ordered, shares, strict=True)]
    return Series("measured", points, line=True)


def _throughput(throughput: Throughput) -> Iterator[str]:
    completed = [(at_s, number + 1.0, "") for number, at_s in enumerate(throughput.ended_s)]
    if completed:
        last_s = throughput.offered / throughput.offered_per_s
        offered = [(0.0, 0.0, ""), (last_s, float(throughput.offered), "")]
        series = [Series("completed", completed, line=True), Series("offered", offered, line=True)]
        yield scatter("Sustained rate", "s", "requests", series)


def _filling(filling: Filling) -> Iterator[str]:
    def series(name: str, shares: Iterable[float]) -> Series:
        points = [(one.at_s, 100 * share, "") for one, share in zip(filling.samples, shares, strict=True)]
        return Series(name, points, line=True)

    if filling.samples:
        cache = series("KV cache used", (sample.kv_use for sample in filling.samples))
        places = series("places taken", (sample.running / filling.places for sample in filling.samples))
        yield scatter("Filling the KV cache", "s", "%", [cache, places])


def _loads(moments: Sequence[Ranks]) -> Iterator[str]:
    loads = rank_loads(moments)
    if len(loads) > 1:
        points = [(float(number), load, name) for number, (name, load) in enumerate(loads.items())]
        yield scatter("Load of the ranks", "rank", "busy s, or utilisation %", [Series("rank", points)])
