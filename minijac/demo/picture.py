"""The picture of the command line's tables: times of every method, and errors where samples mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["draw"]

OURS, NOTICES, SILENT = "#1b6ca8", "#8a8a8a", "#c44536"


def draw(rows: Sequence[Any], path: str) -> None:
    """Save a picture of the measured rows. Needs matplotlib (``pip install minijac[plots]``)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib: pip install 'minijac[plots]'") from error

    networks = list(dict.fromkeys((row.table, row.network, row.device) for row in rows if row.median_seconds))
    mixing = [row for row in rows if row.table == "mixing" and row.error is not None]
    panels = len(networks) + bool(mixing)
    heights = [max(sum(_key(row) == key for row in rows), 3) for key in networks] + [len(mixing)] * bool(mixing)
    figure = Figure(figsize=(9.0, 0.75 * panels + 0.26 * sum(heights)), layout="constrained")
    axes = figure.subplots(panels, 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, key in zip(axes, networks, strict=False):
        shown = [row for row in rows if _key(row) == key and row.median_seconds]
        times = [1e3 * row.median_seconds for row in shown]
        _bars(axis, shown, times, [OURS if row.method.startswith("minijac") else NOTICES for row in shown], "{:.3g} ms")
        axis.set_title(f"{key[1]} ({key[2]}): median time, ms", loc="left", fontsize=9)
    if mixing:
        colours = [OURS if row.notices_mixing or "exact" in (row.remark or "") else SILENT for row in mixing]
        _bars(axes[-1], mixing, [max(row.error, 1e-17) for row in mixing], colours, "{:.1e}")
        axes[-1].set_title("samples mix: largest error (red: wrong without a word)", loc="left", fontsize=9)
    figure.savefig(path, dpi=120)


def _key(row: Any) -> tuple[str, str, str]:
    return row.table, row.network, row.device


def _bars(axis: Any, rows: Sequence[Any], values: Sequence[float], colours: Sequence[str], form: str) -> None:
    bars = axis.barh(range(len(rows)), values, color=colours, height=0.7)
    axis.bar_label(bars, [form.format(value) for value in values], fontsize=7, padding=3)
    axis.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=7)
    axis.set_xscale("log")
    axis.set_xlim(min(values) / 3.0, max(values) * 6.0)
    axis.invert_yaxis()
    axis.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
