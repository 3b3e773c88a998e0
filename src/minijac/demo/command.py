"""The command line: the forum thread's networks, by minijac and by every method of the thread in torch."""

from __future__ import annotations

import argparse
import importlib.resources
import importlib.util
import json
import math
import os
import platform
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

import minijac as mj
from minijac.demo import forum
from minijac.demo.forum import Array, Function, Method, Network

MOST_BYTES = 2**29  # a method whose result is larger is not run
MOST_SECONDS = 4.0  # nor is one that would need longer for one call
MINIJAC = "minijac.jacobian"
STORED = "thread_reference.npz"  # in data/, written by tests/support/references/make_references.py

DESCRIPTION = """\
Per-sample Jacobians of the forum thread's network, Sequential(Linear(5, 2), Sigmoid, Linear(2, 10)) at B = 3, and of
larger ones: minijac beside every method of the thread in torch, with the shape that each computes, its largest error
against a float64 loop over samples, and its time. Then a network with batch statistics, where samples mix: which
methods notice, and how wrong the others are. Everything shown is measured by this run. Without torch, minijac is
checked against stored reference outputs. With CuPy and a GPU, all of it is repeated there."""


@dataclass(frozen=True)
class Row:
    """One line of a table, and one entry of `rows` in the JSON output; None where there is nothing to say."""

    table: str  # "jacobian", "second order" or "mixing"
    device: str
    network: str
    batch: int
    method: str
    computes: tuple[int, ...] | None = None  # shape of what the method makes first
    shape: tuple[int, ...] | None = None  # shape of its result
    error: float | None = None  # largest absolute difference from the reference
    median_seconds: float | None = None
    calls: int | None = None
    ratio: float | None = None  # median time over minijac's
    notices_mixing: bool | None = None
    not_run: str | None = None
    remark: str | None = None


@dataclass(frozen=True)
class Device:
    """Where arrays live: how minijac's and torch's get there, and how to wait for them."""

    name: str
    place: Function  # NumPy array -> this device's array
    fetch: Function  # and back
    torch_name: str | None  # None: torch cannot use this device
    synchronize: Callable[[], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    start = time.perf_counter()
    versions = library_versions()
    warning = forum.busy()

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)  # at once, also into a pipe: the tables take a while

    say(heading(versions, options))
    rows: list[Row] = []
    with_torch = forum.has_torch()
    tables = tables_with_torch if with_torch else tables_without_torch
    for device in devices():
        for title, table in tables(device, options):
            rows += table
            say(format_table(title, table))
    remarks = closing_remarks(with_torch) + ([warning] if warning else [])
    if options.json:
        record = {
            "versions": versions,
            "machine": machine(),
            "options": vars(options),
            "rows": [asdict(row) for row in rows],
            "remarks": remarks,
            "seconds": time.perf_counter() - start,
        }
        print(json.dumps(record, indent=1))
    if options.plot:
        from .picture import draw

        draw(rows, options.plot)
        remarks.append(f"The picture is in {options.plot}.")
    say("\n" + "\n".join(remarks))
    say(f"{time.perf_counter() - start:.0f} seconds in all.")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser("python -m minijac", description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="one JSON object (versions, machine, rows) on stdout")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the tables (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, few repeats: a check, no measurement")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parser.add_argument("--seed", type=int, default=0, help="of the networks and inputs (default: 0)")
    return parser.parse_args(arguments)


# ------------------------------------------------------------------------------------------------ what is measured


def jacobian_networks(options: argparse.Namespace) -> list[Network]:
    """The thread's network, then sizes at which the methods part."""
    sizes = [(8, (8, 16, 8))] if options.quick else [(32, (32, 64, 32)), (256, (32, 256, 32)), (1024, (16, 256, 16))]
    larger = [forum.make_network("larger", batch, widths, seed=options.seed) for batch, widths in sizes]
    return [forum.thread_network(options.seed), *larger]


def tables_with_torch(device: Device, options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Every table of one device, as it is measured."""
    mixing = mixing_rows(device, options)
    noticed = {row.method: row.notices_mixing for row in mixing}
    for network in jacobian_networks(options):
        reference = forum.reference_jacobian(network)
        yield network.label, measured_rows("jacobian", device, network, reference, forum.FIRST_ORDER, noticed, options)
    network = forum.thread_network(options.seed)
    yield (
        f"second order, {network.label}",
        measured_rows(
            "second order", device, network, forum.reference_hessian(network), forum.SECOND_ORDER_METHODS, {}, options
        ),
    )
    yield forum.mixing_network(options.seed).label, mixing


def measured_rows(
    table: str,
    device: Device,
    network: Network,
    reference: Array,
    methods: Sequence[Method],
    noticed: dict[str, bool | None],
    options: argparse.Namespace,
) -> list[Row]:
    """minijac and every method on one network: shapes and errors first, then times in interleaved rounds."""
    turns: dict[str, Callable[[], object]] = {}
    found: dict[str, dict[str, Any]] = {}
    compute, name = minijac_turn(table, device, network, options)
    turns[name] = compute
    J = device.fetch(compute())
    found[name] = {"computes": J.shape, "shape": J.shape, "error": largest_difference(J, reference)}
    if device.torch_name is not None:
        f, x = torch_arguments(network, device, options)
        pass_seconds = backward_seconds(f, x, device)
        for method in methods:
            reason = too_expensive(method, network, options.dtype, pass_seconds)
            found[method.title] = {"not_run": reason}
            if reason is None:
                raw = method.compute(f, x)
                J = method.arrange(raw)
                error = largest_difference(J.cpu().numpy(), reference)
                found[method.title] = {"computes": tuple(raw.shape), "shape": tuple(J.shape), "error": error}
                turns[method.title] = synchronized(partial(method, f, x), device)
                del raw, J  # up to MOST_BYTES each
    timings = forum.interleaved(turns, rounds=3 if options.quick else 11, seconds_each=0.2 if options.quick else 0.8)
    for title, timing in timings.items():
        found[title] |= {
            "median_seconds": timing.median,
            "calls": timing.calls,
            "ratio": timing.median / timings[name].median,
        }
    return [
        Row(table, device.name, network.label, network.batch, title, notices_mixing=noticed.get(title), **facts)
        for title, facts in found.items()
    ]


def minijac_turn(
    table: str, device: Device, network: Network, options: argparse.Namespace
) -> tuple[Callable[[], Any], str]:
    """The call that is timed, and its name."""
    f, x = minijac_arguments(network, device, options)
    if table == "second order":
        differentiated = mj.jacobian(mj.jacobian(f))
        return synchronized(lambda: differentiated(x), device), "minijac.jacobian, twice"
    differentiated = mj.jacobian(f)
    return synchronized(lambda: differentiated(x), device), MINIJAC


def minijac_arguments(network: Network, device: Device, options: argparse.Namespace) -> tuple[Function, Array]:
    """The plain NumPy function and its input, on the device."""
    placed = network.convert(lambda array: device.place(array.astype(options.dtype)))
    return forum.numpy_function(placed), placed.x


def torch_arguments(
    network: Network, device: Device, options: argparse.Namespace, *, own_batch_norm: bool = False
) -> tuple[Function, Any]:
    """The same function and input in torch."""
    assert device.torch_name is not None
    f = forum.torch_function(network, options.dtype, device.torch_name, own_batch_norm=own_batch_norm)
    return f, forum.to_tensor(network.x, options.dtype, device.torch_name)


def synchronized(function: Callable[[], Any], device: Device) -> Callable[[], Any]:
    """The function, waiting until the device has finished."""

    def run() -> Any:
        result = function()
        device.synchronize()
        return result

    return run


def backward_seconds(f: Function, x: Any, device: Device) -> float:
    """Typical time of one backward pass through the whole batch."""
    one_pass = synchronized(lambda: forum.torch.autograd.functional.vjp(lambda x: f(x).sum(), x), device)
    return statistics.median(forum.seconds_of(one_pass) for _ in range(30))


def too_expensive(method: Method, network: Network, dtype: str, pass_seconds: float) -> str | None:
    """Why a method is not run at this size, or None."""
    size = {"B": network.batch, "m": network.widths[-1], "n": network.widths[0]}
    entries = math.prod(size[letter] for letter in method.entries)
    needed = entries * np.dtype(dtype).itemsize
    if needed > MOST_BYTES:
        return f"{needed / 2**30:.2g} GiB"
    seconds = entries // network.x.size * pass_seconds  # of a pass for each row
    if method.key == "full" and seconds > MOST_SECONDS:
        return f"about {seconds:.0f} s"
    return None


def largest_difference(array: Array, reference: Array) -> float:
    """Largest absolute difference, taken in float64; infinite where the shapes differ."""
    if array.shape != reference.shape:
        return float("inf")
    return float(np.max(np.abs(np.asarray(array, dtype=np.float64) - reference), initial=0.0))


# ------------------------------------------------------------------------------------------- where samples mix


def mixing_rows(device: Device, options: argparse.Namespace) -> list[Row]:
    """What each method makes of batch statistics: it raises, is right, or is wrong and silent."""
    network = forum.mixing_network(options.seed)
    reference = forum.reference_jacobian(network)
    full = forum.reference_full_jacobian(network)
    rows = minijac_mixing_rows(device, network, reference, full, options)
    if device.torch_name is None:
        return rows
    f, x = torch_arguments(network, device, options)
    for method in forum.FIRST_ORDER:
        rows.append(mixing_row(device, network, method.title, partial(to_host, method, f, x), reference))
    f, x = torch_arguments(network, device, options, own_batch_norm=True)
    for method in forum.FIRST_ORDER:
        if method.key in ("loop", "vmap-jacrev"):  # these show the layer one sample at a time
            title = f"{method.title}, torch's batch_norm"
            rows.append(mixing_row(device, network, title, partial(to_host, method, f, x), reference))
    return rows


def to_host(method: Method, f: Function, x: Any) -> Array:
    """A torch method's result as a NumPy array."""
    return method(f, x).cpu().numpy()


def minijac_mixing_rows(
    device: Device, network: Network, reference: Array, full: Array, options: argparse.Namespace
) -> list[Row]:
    """minijac's three choices of on_mixing."""
    f, x = minijac_arguments(network, device, options)

    def call(choice: Any = "raise") -> Callable[[], Array]:
        return lambda: device.fetch(mj.jacobian(f, on_mixing=choice)(x))

    return [
        mixing_row(device, network, MINIJAC, call(), reference),
        mixing_row(device, network, 'on_mixing="diagonal"', call("diagonal"), reference, asked=True),
        mixing_row(device, network, 'on_mixing="full"', call("full"), full, asked=True),
    ]


def mixing_row(
    device: Device, network: Network, method: str, call: Callable[[], Array], reference: Array, *, asked: bool = False
) -> Row:
    """Run one method where samples mix. `asked`: the caller asked for this result, so silence is right."""
    try:
        J = call()
    except Exception as error:  # what a method raises is what this table shows
        first_line = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return Row("mixing", device.name, network.label, network.batch, method, notices_mixing=True, remark=first_line)
    difference = largest_difference(J, reference)
    right = difference < 1e-3 * float(np.max(np.abs(reference)))
    if asked:
        verdict = "exact, as asked for" if right else "wrong"
    else:
        verdict = "exact diagonal, the rest dropped silently" if right else "wrong, silently"
    return Row(
        "mixing",
        device.name,
        network.label,
        network.batch,
        method,
        shape=tuple(J.shape),
        error=difference,
        notices_mixing=asked,
        remark=verdict,
    )


# ------------------------------------------------------------------------------------------------ without torch


def tables_without_torch(device: Device, options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """minijac alone, against outputs stored with the package. They belong to seed 0."""
    with importlib.resources.files("minijac").joinpath("data", STORED).open("rb") as file, np.load(file) as stored:
        references = dict(stored)
    options = argparse.Namespace(**(vars(options) | {"seed": 0}))
    thread, mixing = forum.thread_network(), forum.mixing_network()
    larger = forum.make_network("larger", 8, (8, 16, 8))
    for network, key in (thread, "thread"), (larger, "larger"):
        yield network.label, measured_rows("jacobian", device, network, references[key], (), {MINIJAC: True}, options)
    title = f"second order, {thread.label}"
    yield title, measured_rows("second order", device, thread, references["thread_hessian"], (), {}, options)
    yield (
        mixing.label,
        minijac_mixing_rows(device, mixing, references["mixing"], references["mixing_full"], options),
    )


# ------------------------------------------------------------------------------------------------------ devices


def devices() -> list[Device]:
    """The CPU, and the GPU where CuPy finds one."""
    host = Device("cpu", np.ascontiguousarray, np.asarray, "cpu" if forum.has_torch() else None, lambda: None)
    cupy = cupy_with_device()
    if cupy is None:
        return [host]
    on_gpu = "cuda" if forum.has_torch() and forum.torch.cuda.is_available() else None

    def synchronize() -> None:
        cupy.cuda.get_current_stream().synchronize()
        if on_gpu is not None:
            forum.torch.cuda.synchronize()

    # Compare float32 with float32: torch would otherwise be free to use TF32 on some devices.
    if on_gpu is not None:
        forum.torch.backends.cuda.matmul.allow_tf32 = False
    return [host, Device("gpu", cupy.asarray, cupy.asnumpy, on_gpu, synchronize)]


def cupy_with_device() -> Any:
    """The cupy module where it can be imported and sees a device, else None."""
    if importlib.util.find_spec("cupy") is None:
        return None
    try:
        cupy = importlib.import_module("cupy")
        return cupy if cupy.cuda.runtime.getDeviceCount() > 0 else None
    except Exception:  # no driver, no device, a broken install: the same answer, no GPU
        return None


# ------------------------------------------------------------------------------------------------------- output


def library_versions() -> dict[str, str | None]:
    """Versions of what takes part; None where it is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "numpy": np.__version__}
    versions["torch"] = str(forum.torch.__version__) if forum.has_torch() else None
    cupy = cupy_with_device()
    versions["cupy"] = None if cupy is None else str(cupy.__version__)
    versions["minijac"] = mj.__version__
    return versions


def machine() -> dict[str, Any]:
    """What the times depend on."""
    return {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()}


def heading(versions: dict[str, str | None], options: argparse.Namespace) -> str:
    """Two lines that say what is compared and how."""
    installed = ", ".join(f"{name} {number}" for name, number in versions.items() if number is not None)
    lines = [f"Per-sample Jacobians, {options.dtype}, {os.cpu_count()} cores; {installed}."]
    if forum.has_torch():
        lines.append(
            "Error: largest difference from a float64 loop over samples (torch, reverse mode). Time: median of\n"
            "interleaved rounds, eager on both sides. Ratio: time over minijac's."
        )
    else:
        lines.append(
            "torch is not installed: minijac is checked against reference outputs stored with the package (made by\n"
            "torch in float64, one sample at a time, for seed 0), and there is no other method beside it."
        )
    return "\n".join(lines)


def format_table(title: str, rows: list[Row]) -> str:
    """One table as text."""
    where = "" if rows[0].device == "cpu" else f", on the {rows[0].device}"
    if rows[0].table == "mixing":
        table = [("method", "result", "error", ""), *map(mixing_cells, rows)]
    else:
        table = [MEASURED_HEAD, *map(measured_cells, rows)]
    if not any(row.notices_mixing is not None for row in rows):
        table = [cells[:-1] for cells in table]
    raised = [wrap(f"{row.method}: {row.remark}") for row in rows if row.remark and row.shape is None]
    return "\n".join([f"\n{title}{where}", *align(table), *raised])


MEASURED_HEAD = ("method", "computes", "error", "time", "ratio", "notices mixing")


def measured_cells(row: Row) -> tuple[str, ...]:
    """A row with a time."""
    notices = {None: "", True: "yes, raises", False: "no"}[row.notices_mixing]
    if row.not_run is not None:
        return row.method, f"not run: {row.not_run}", "", "", "", notices
    assert row.error is not None and row.median_seconds is not None and row.ratio is not None
    milliseconds = f"{row.median_seconds * 1e3:.3f} ms"
    return row.method, str(row.computes), f"{row.error:.1e}", milliseconds, f"{row.ratio:.2f}", notices


def mixing_cells(row: Row) -> tuple[str, ...]:
    """A row of the mixing table."""
    if row.shape is None:
        return row.method, "none", "", "raises"
    assert row.error is not None and row.remark is not None
    return row.method, str(row.shape), f"{row.error:.1e}", row.remark


def align(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to one width each; text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = (2, 3, 4) if len(widths) > 4 else (2,)
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def wrap(text: str) -> str:
    """A message indented under its table."""
    return textwrap.fill(text, 108, initial_indent="  ", subsequent_indent="    ")


def closing_remarks(with_torch: bool) -> list[str]:
    """What was left out, and why."""
    remarks = [] if cupy_with_device() else ["No GPU was found (CuPy missing, or it sees no device): CPU only."]
    if with_torch:
        limits = f"{MOST_BYTES / 2**30:g} GiB or {MOST_SECONDS:g} s"
        remarks.append(f"'not run': the method would need more than {limits} for one call.")
    return remarks
