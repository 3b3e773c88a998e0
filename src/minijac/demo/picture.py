"""The picture of the command line's tables: what each method takes beside minijac, and errors where samples mix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["draw"]

OURS, OTHERS, SILENT = "#1b6ca8", "#8a8a8a", "#c44536"


def draw(rows: Sequence[Any], path: str) -> None:
    """Save a picture of the measured rows. Needs matplotlib (``pip install minijac[plots]``)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib: pip install 'minijac[plots]'") from error

    panels = list(dict.fromkeys(map(_panel, rows)))
    shown = [[row for row in rows if _panel(row) == panel] for panel in panels]
    heights = [len(panel) + 2.5 for panel in shown]  # title, axis and its label take about as much as two rows
    figure = Figure(figsize=(8.5, 0.24 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (table, network, device), panel in zip(axes, panels, shown, strict=True):
        where = "" if device == "cpu" else f", on the {device}"
        (_errors if table == "mixing" else _times)(axis, panel)
        title = {"jacobian": "Jacobian", "second order": "Second derivatives", "mixing": "Samples mix"}[table]
        axis.set_title(f"{title}, {network}{where}", loc="left", fontsize=9, fontweight="bold")
    figure.savefig(path, dpi=120)


def _panel(row: Any) -> tuple[str, str, str]:
    return row.table, row.network, row.device


def _times(axis: Any, rows: Sequence[Any]) -> None:
    """Times as multiples of minijac's: bars from 1, on a scale where twice and half are as long."""
    own = next(row.median_seconds for row in rows if row.method.startswith("minijac"))

    def told(row: Any) -> str:
        return f"not run: {row.not_run}" if row.ratio is None else f"{row.ratio:.3g}" if row.ratio != 1 else "1"

    axis.set_xscale("log")
    _bars(axis, rows, [row.ratio or 1.0 for row in rows], told, lambda row: OTHERS, start=1.0)
    least, most = (pick([row.ratio or 1.0 for row in rows]) for pick in (min, max))
    axis.set_xlim(min(0.5, least / 2), max(10.0, most * 4))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.axvline(1.0, color=OURS, linewidth=2)
    axis.set_xlabel(f"median time as a multiple of minijac's, {1e3 * own:.3g} ms (logarithmic)", fontsize=7)


def _errors(axis: Any, rows: Sequence[Any]) -> None:
    """Errors from zero; what raised has none."""

    def told(row: Any) -> str:
        return "raises" if row.error is None else f"{row.error:.2g}, {row.remark}"

    def colour(row: Any) -> str:
        return SILENT if "wrong" in (row.remark or "") else OTHERS

    _bars(axis, rows, [row.error or 0.0 for row in rows], told, colour, start=0.0)
    axis.set_xlim(0.0, 1.6 * max([row.error or 0.0 for row in rows] + [1e-6]))
    axis.set_xlabel("largest error of an entry", fontsize=7)


def _bars(
    axis: Any,
    rows: Sequence[Any],
    values: Sequence[float],
    told: Callable[[Any], str],
    colour: Callable[[Any], str],
    start: float,
) -> None:
    lengths = [value - start for value in values]
    axis.barh(range(len(rows)), lengths, left=start, color=[colour(row) for row in rows], height=0.7)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        axis.annotate(
            told(row), (max(value, start), place), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
    axis.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
