"""Runs the tests that guard a mutant, each mutant in a process and a copy of the tree of its own."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.mutation.mutants import ROOT, Mutant, Settings

__all__ = ["run"]

_PRELOADED = (
    "torch",
    "torch._dynamo",
    "numpy",
    "nevergrad",
    "cma",
    "scipy.stats",
    "sklearn.datasets",
    "matplotlib.figure",
    "pytest",
)
_DEFAULT_TESTS = "not slow and not ray and not peer and not gpu"


def run(
    mutants: Sequence[Mutant], settings: Settings, jobs: int, show: Callable[[Mutant, bool], None] = lambda mutant, killed: None
) -> list[bool]:
    """Whether each of ``mutants`` is killed: a test of its module fails, or takes longer than `Settings.timeout` seconds.

    Raises:
        SystemExit: the tests fail without any mutation.
    """
    for name in _PRELOADED:  # libraries once, the project's own modules in every process
        importlib.import_module(name)
    gc.freeze()  # so that collections in the processes do not copy the libraries' pages
    tests = settings.files()
    groups = sorted({tuple(tests[mutant.module]) for mutant in mutants})
    work: list[tuple[Mutant | None, Sequence[str]]] = [(None, group) for group in groups]  # without a mutation they have to pass
    work += [(mutant, tests[mutant.module]) for mutant in mutants]
    killed: dict[int, bool] = {}
    running: dict[Path, tuple[int, int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trees = [_copy(Path(folder) / str(job)) for job in range(jobs)]
        waiting = iter(range(len(work)))
        while len(killed) < len(work):
            for tree in trees:
                if tree in running:
                    number, child, began = running[tree]
                    passed = _ended(child, began + settings.timeout)
                    if passed is None:
                        continue
                    killed[number] = not passed
                    mutant, chosen = work[number]
                    if mutant is not None:
                        shutil.copyfile(ROOT / mutant.module, tree / mutant.module)
                        show(mutant, not passed)
                    elif not passed:
                        said = (tree / "output.txt").read_text()[-2000:]
                        raise SystemExit(f"without a mutation these tests fail: {' '.join(chosen)}\n{said}")
                    del running[tree]
                if (number := next(waiting, None)) is not None:
                    mutant, chosen = work[number]
                    if mutant is not None:
                        (tree / mutant.module).write_text(mutant.code())
                    running[tree] = number, _begin(tree, chosen), time.monotonic()
            time.sleep(0.02)
    return [killed[len(groups) + number] for number in range(len(mutants))]


def _copy(tree: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "*_cache")
    outputs = {"runs", "build"}  # of the root alone: packages have folders of these names
    shutil.copytree(ROOT, tree, ignore=lambda at, names: ignored(at, names) | (outputs if at == str(ROOT) else set()))
    return tree


def _begin(tree: Path, tests: Sequence[str]) -> int:
    """A process that runs ``tests`` in ``tree``; its number."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        os.setsid()
        os.chdir(tree)
        silent = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        sys.dont_write_bytecode = True
        sys.path[:] = [str(tree), *(place for place in sys.path if place not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("bbfuse", "backends", "experiments", "tests")]:
            del sys.modules[name]
        import pytest

        options = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "xdist.plugin", "-m", _DEFAULT_TESTS]
        code = int(pytest.main([*options, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(child: int, limit: float) -> bool | None:
    """Whether the tests of ``child`` passed; ``None`` if they have not ended and it is not yet the time ``limit``."""
    ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        if time.monotonic() < limit:
            return None
        os.waitpid(child, 0) if _kill(child) else None
        return False
    _kill(child)  # what it has started
    return os.waitstatus_to_exitcode(status) == 0


def _kill(child: int) -> bool:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
