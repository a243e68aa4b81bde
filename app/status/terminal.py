"""The view for a terminal: a pure function of the value, as something that Rich prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.flow.detail import ReplicaDetail
from app.printable import printable
from app.status.numbers import SPACE, UNKNOWN, count, percent, seconds, size
from app.status.page import FULL_SHARE, HIGH_SHARE, by_promise, clock
from app.status.view import RankLoad, StatusView

BAR_CELLS = 10
_STATES = {"ready": "green", "barred": "yellow", "draining": "yellow", "silent": "red"}


def screen(view: StatusView) -> RenderableType:
    """Most important first: a terminal cuts off what is below its end."""
    return Group(*_blocks(view))


def _blocks(view: StatusView) -> Iterator[RenderableType]:
    yield _head(view)
    yield _classes(view)
    if view.attainment:
        yield _promises(view)
    if view.detail.replicas:
        yield Columns([_engine(view, one) for one in view.shown_replicas()])
    if view.detail.tenants:
        yield _tenants(view)
    if view.scaling:
        yield _scaling(view)


def _head(view: StatusView) -> Text:
    starting = view.detail.starting_s
    parts = [
        f"{count(view.queued)} of {count(view.max_queued)} in the queue",
        f"{count(view.in_flight)} of {count(view.places)} places taken",
        f"{view.replicas_ready} ready" + (f", next in {seconds(starting[0])}" if starting else ""),
    ]
    if view.queued:
        parts.append(f"empty in {seconds(view.drain_s)}")
    text = _plain(view.model, "bold")
    text.append(f"  {clock(view.at_s)} UTC\n", style="dim")
    text.append(" · ".join(parts) + "\n", style="not bold")
    return text


def _classes(view: StatusView) -> Table:
    table = _table(
        "Queue by class", "Class", ">Waiting", ">Tokens", ">Longest", "Of budget", ">Newcomer", ">Budget"
    )
    for one in view.detail.classes:
        waits = one.queued > 0
        expected_s = one.expected_wait_s
        table.add_row(
            _plain(one.name),
            count(one.queued),
            count(one.prompt_tokens),
            seconds(one.oldest_wait_s if waits else None),
            _bar(one.oldest_wait_s / one.ttft_budget_s, warns=True) if waits else UNKNOWN,
            "no wait" if expected_s == 0 else seconds(expected_s),
            seconds(one.ttft_budget_s),
        )
    return table


def _promises(view: StatusView) -> Table:
    windows = sorted({one.window_s for one in view.attainment})
    kept = [f">Last {seconds(window_s)}" for window_s in windows]
    table = _table("Promises kept", "Class", "Promise", *kept, ">Objective")
    for class_name, promise, objective, by_window in by_promise(view.attainment):
        cells = [
            Text(UNKNOWN)
            if (one := by_window.get(window_s)) is None
            else Text(percent(one.share, 1), style="red" if one.share < objective else "")
            for window_s in windows
        ]
        table.add_row(_plain(class_name), _plain(promise), *cells, percent(objective, 1))
    return table


def _tenants(view: StatusView) -> Table:
    waiting = [f">{one.name}" for one in view.detail.classes]
    table = _table("Tenants: on engines, waiting by class", "Tenant", ">Running", *waiting, ">Longest")
    for one in view.detail.tenants:
        longest = seconds(one.oldest_wait_s if sum(one.queued) else None)
        table.add_row(_plain(one.name), count(one.running), *map(count, one.queued), longest)
    if view.detail.more_tenants:
        table.caption = f"and {count(view.detail.more_tenants)} more with less"
    return table


def _scaling(view: StatusView) -> Table:
    table = _table("Scale decisions", "Since (UTC)", ">Engines", "Because of")
    for one in view.scaling:
        table.add_row(clock(one.at_s), count(one.engines), _plain(one.reason.replace("_", " ")))
    return table


def _engine(view: StatusView, replica: ReplicaDetail) -> Panel:
    facts = Table.grid(padding=(0, 1))
    facts.add_row(
        "places", _bar(replica.taken / max(1, replica.limit)), f"{replica.taken} of {replica.limit}"
    )
    if replica.token_limit:
        # Free places are none where nothing more fits.
        facts.add_row(
            "reserved",
            _bar(replica.reserved_tokens / replica.token_limit),
            f"{count(replica.reserved_tokens)} of {count(replica.token_limit)} tokens",
        )
    if replica.metrics is not None:
        kv_use, itl_s = replica.metrics.kv_use, replica.metrics.itl_s
        facts.add_row(
            "KV cache", _bar(kv_use, warns=True), f"{count(replica.metrics.preemptions)} preemptions"
        )
        facts.add_row("tokens", f"every {seconds(itl_s)}" if itl_s else UNKNOWN)
    state = Text(replica.state, style=_STATES[replica.state])
    title = _plain(replica.replica_id + " ") + state
    return Panel(Group(facts, _grid(view, replica)), title=title, title_align="left", expand=False)


def _grid(view: StatusView, replica: ReplicaDetail) -> Table:
    """Stages down, tensor ranks across; of each rank its memory and its load, where they are known."""
    tp, loads = view.tensor_parallel_size, view.rank_loads(replica.replica_id)
    table = Table("", *(f"TP{rank}" for rank in range(tp)), box=None, padding=(0, 1), header_style="dim")
    for stage in view.stages:
        layers = "" if stage.first_layer is None else f" {stage.first_layer}–{stage.last_layer}"
        cells = [_rank(loads.get(stage.stage * tp + rank)) for rank in range(tp)]
        table.add_row(Text(f"PP{stage.stage}{layers}", style="dim"), *cells)
    return table


def _rank(load: RankLoad | None) -> str:
    return UNKNOWN if load is None else f"{size(load.memory_bytes)} {percent(load.busy)}"


def _plain(text: str, style: str = "") -> Text:
    """A text from elsewhere: neither its brackets nor its control characters mean anything."""
    return Text(printable(text), style)


def _bar(share: float, warns: bool = False) -> Text:
    cells = round(BAR_CELLS * min(1.0, max(0.0, share)))
    colour = "green"
    if warns and share > HIGH_SHARE:
        colour = "red" if share > FULL_SHARE else "yellow"
    text = Text("━" * cells, style=colour)
    text.append("─" * (BAR_CELLS - cells), style="dim")
    return text.append(f" {percent(share):>5}".replace(SPACE, " "))


def _table(title: str, *columns: str) -> Table:
    """A column whose name begins with > holds figures."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, header_style="dim")
    for name in columns:
        table.add_column(_plain(name.removeprefix(">")), justify="right" if name.startswith(">") else "left")
    return table
