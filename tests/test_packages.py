"""The packages: a source distribution that is whole, and a wheel of it that works in a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import minijac as mj

pytest.importorskip("setuptools")

ROOT = Path(__file__).resolve().parents[1]
MADE = ("__pycache__", ".*", "*.egg-info", "build", "dist", "site", "out", "*.pyc")
README_CODE = """
import re, sys, time
start = time.process_time()
import minijac
print(time.process_time() - start)  # of the processor, since others may be busy beside it
page = open(sys.argv[1], encoding="utf-8").read()
for block in re.findall(r"^```python\\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
    exec(block, globals())
print(minijac.__version__, minijac.__file__)
"""
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """A command in a process of its own; what it printed."""
    process = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=CLEAN | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    return process.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    """One package, built by the hook that installers call."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, into, cwd=source)
    (made,) = into.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without what was made in it."""
    copy = tmp_path_factory.mktemp("checkout") / "minijac"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*MADE))
    shutil.copytree(ROOT / ".ci", copy / ".ci")
    return copy


@pytest.fixture(scope="module")
def unpacked(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    place = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", copy, place)) as archive:
        archive.extractall(place, filter="data")
    return place / f"minijac-{mj.__version__}"


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def test_the_source_distribution_is_the_whole_repository(copy, unpacked):
    def files(top: Path) -> set[str]:
        return {
            str(path.relative_to(top)) for path in top.rglob("*") if path.is_file() and ".egg-info" not in str(path)
        }

    assert files(unpacked) - files(copy) == {"PKG-INFO", "setup.cfg"}
    assert files(copy) - files(unpacked) == set()


def test_the_source_distribution_is_tested_from_itself(unpacked):
    text = run(
        sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/test_house.py",
        "tests/docs/test_docs.py", "-k", "not of_a_page_runs or README", cwd=unpacked, PYTHONPATH=str(unpacked),
    )  # fmt: skip
    assert re.search(r"\d+ passed", text)


def test_links_of_the_readme_lead_somewhere(unpacked, wheel):
    """In the repository and the source distribution to files; on a package index, which has no files, none is left."""
    link = re.compile(r"\]\((?!https?:)([^)#]*)")
    targets = link.findall((unpacked / "README.md").read_text(encoding="utf-8"))
    assert targets and all((unpacked / target).exists() for target in targets)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        message = Parser().parsestr(archive.read(name).decode())
    assert message["Version"] == mj.__version__
    assert "mj.jacobian(f)(x)" in message.get_payload()
    assert not link.findall(message.get_payload())


def test_a_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"minijac", f"minijac-{mj.__version__}.dist-info"}
    assert {"minijac/py.typed", "minijac/data/thread_reference.npz"} <= set(names)


def test_it_works_in_a_fresh_environment_without_extras(wheel, unpacked, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    (python,) = (path for path in (tmp_path / "fresh").glob("*/python*") if path.stem == "python")
    start = time.perf_counter()
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    print(f"installed in {time.perf_counter() - start:.1f} s")
    shutil.copy(unpacked / "README.md", tmp_path)
    script = tmp_path / "readme.py"
    script.write_text(README_CODE)
    *_, told = run(python, script, "README.md", cwd=tmp_path).splitlines()
    assert told.startswith(mj.__version__) and "site-packages" in told
    seconds = min(float(run(python, script, "README.md", cwd=tmp_path).splitlines()[0]) for _ in range(3))
    print(f"imported in {seconds:.2f} s")
    assert seconds < 0.7
