"""What the examples share: their command line, a progress bar, torch where it is installed, the look of a figure."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#2a6f97", "#d1603d", "#4f8a5b", "#8a8f98"


def options(doc: str | None, name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of every example: ``--out`` and ``--quick``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent / "out" / f"{name}.png",
        help=f"the picture to write (default: examples/out/{name}.png)",
    )
    parser.add_argument("--quick", action="store_true", help="a reduced size, for a look in a few seconds")
    given = parser.parse_args(argv)
    needed("matplotlib", "matplotlib")  # missed now rather than after the work
    return given


def needed(module: str, package: str) -> Any:
    """An optional module, or an exit that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        sys.exit(f"This example needs {package}: pip install 'minijac[examples]'")


def torch_or_none() -> Any:
    """torch, to check against; None where it is not installed, and it says so."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        print("against torch: not checked, torch is not installed")
        return None


class Progress:
    """A progress bar, where tqdm is installed; without it, nothing."""

    def __init__(self, total: int, label: str) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar: Any = None
        else:
            self._bar = tqdm(total=total, desc=label, mininterval=0.5)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, **numbers: float) -> None:
        """One step further; the numbers are shown beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in numbers.items()}, refresh=False)
            self._bar.update()


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files, in the examples' common look."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    return plt


def save(figure: Any, path: Path) -> None:
    """Write the picture, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")
