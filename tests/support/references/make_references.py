"""Make the stored references: torch in float64, reverse mode, a loop over samples.

Run `python tests/support/references/make_references.py` (needs torch); it writes one .npz per family beside this
file, and src/minijac/data/thread_reference.npz for the command line without torch. Every value is rounded to what
float64 gives; nothing of minijac is used but the description of the thread's networks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

from references.cases import FAMILIES, Array, Case, samples, torch  # noqa: E402

Record = dict[str, Array]


def torch_record(case: Case) -> Record:
    """What torch says of a case: `value`, `jacobian<argnum>`, and `hessian` where order is 2."""
    if case.mixes:
        return {"value": value(case), "jacobian0": full_jacobian(case)}
    record = {"value": value(case)}
    for argnum in case.argnums:
        record[f"jacobian{argnum}"] = stack(case, lambda *one, k=argnum: jacobian_of_one(case, one, k))
    if case.order == 2:
        (argnum,) = case.argnums
        record["hessian"] = stack(case, lambda *one: hessian_of_one(case, one, argnum))
    return record


def value(case: Case) -> Array:
    """f on the whole batch, batch axis where f left it."""
    return case.torch_f(*map(torch.tensor, case.inputs)).numpy()


def full_jacobian(case: Case) -> Array:
    """(B, *out, B, *in), batch axes first already."""
    return torch.autograd.functional.jacobian(case.torch_f, torch.tensor(case.inputs[0])).numpy()


def stack(case: Case, of_one: Any) -> Array:
    """One result per sample, batch first."""
    return np.stack([of_one(*one).numpy() for one in samples(case)])


def function_of_one(case: Case, one: tuple[Array, ...], argnum: int) -> tuple[Any, Any]:
    """f as a function of one argument of one sample, batch axes taken out, and that argument."""
    tensors = [torch.tensor(a) for a in one]
    axis = case.batch_axis[argnum]

    def f(x: Any) -> Any:
        arguments = list(tensors)
        arguments[argnum] = x if axis is None else x.unsqueeze(axis)
        return case.torch_f(*arguments).squeeze(case.output_batch_axis)

    x = tensors[argnum]
    return f, x if axis is None else x.squeeze(axis)


def jacobian_of_one(case: Case, one: tuple[Array, ...], argnum: int) -> Any:
    """(*out, *in) of one sample, by reverse mode."""
    return torch.autograd.functional.jacobian(*function_of_one(case, one, argnum))


def hessian_of_one(case: Case, one: tuple[Array, ...], argnum: int) -> Any:
    """(*out, *in, *in) of one sample, by reverse mode twice."""
    f, x = function_of_one(case, one, argnum)

    def J(x: Any) -> Any:
        return torch.autograd.functional.jacobian(f, x, create_graph=True)

    return torch.autograd.functional.jacobian(J, x)


def flat_records(family: dict[str, Case]) -> Record:
    """All records of a family under the keys `case/what`."""
    return {f"{name}/{what}": array for name, case in family.items() for what, array in torch_record(case).items()}


def thread_references() -> Record:
    """What `python -m minijac` checks itself against where torch is missing."""
    from minijac.demo import forum

    thread, mixing = forum.thread_network(), forum.mixing_network()
    return {
        "thread": forum.reference_jacobian(thread),
        "thread_hessian": forum.reference_hessian(thread),
        "larger": forum.reference_jacobian(forum.make_network("larger", 8, (8, 16, 8))),
        "mixing": forum.reference_jacobian(mixing),
        "mixing_full": forum.reference_full_jacobian(mixing),
    }


def write(path: Path, record: Record) -> None:
    """Store a record and say how large it is."""
    np.savez_compressed(path, **record)  # type: ignore[arg-type]  # its stub takes the names for options
    print(f"{path.name}: {len(record)} arrays, {path.stat().st_size} bytes")


def main() -> None:
    """Write every file."""
    torch.set_num_threads(1)
    for family, cases in FAMILIES.items():
        write(HERE / f"{family}.npz", flat_records(cases))
    data = ROOT / "src" / "minijac" / "data"
    data.mkdir(exist_ok=True)
    write(data / "thread_reference.npz", thread_references())


if __name__ == "__main__":
    main()
