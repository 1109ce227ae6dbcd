"""``python -m tests.mutation sample`` runs a seeded sample, ``python -m tests.mutation score`` prints the committed score."""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant, Settings, sample
from tests.mutation.runner import run

SCORE = Path(__file__).with_name("score.json")
REASONS = Path(__file__).with_name("survivors.toml")


def main(arguments: list[str]) -> int:
    """The exit code: 1 if less than ``--least`` per cent were killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("what", choices=["sample", "score"])
    parser.add_argument("--mutants", type=int, default=500, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of modules' paths, such as bbfuse/optimizers")
    parser.add_argument("--first", type=int, help="run the first so many mutants of the sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--least", type=float, default=90.0, help="per cent that must be killed")
    parser.add_argument("--save", action="store_true", help=f"write {SCORE.name}; with --only the rows of these modules")
    chosen = parser.parse_args(arguments)
    if chosen.what == "score":
        _print(json.loads(SCORE.read_text()))
        return 0
    settings, began = Settings.read(), time.monotonic()
    mutants = [mutant for mutant in sample(settings, chosen.mutants, chosen.seed) if mutant.module.startswith(tuple(chosen.only))]
    mutants = mutants[: chosen.first]
    done = 0

    def show(mutant: Mutant, killed: bool) -> None:
        nonlocal done
        done += 1
        if not killed:
            before, after = mutant.lines()
            print(f"survived: {mutant.module}:{mutant.line}\n  - {before}\n  + {after}", flush=True)
        if done % 10 == 0 or done == len(mutants):
            left = (time.monotonic() - began) / done * (len(mutants) - done)
            print(f"{done} of {len(mutants)} mutants, about {left:.0f} s left", file=sys.stderr, flush=True)

    killed = run(mutants, settings, chosen.jobs, show)
    score = _score(chosen.seed, *_counted(mutants, killed))
    if chosen.save:
        if chosen.only != [""]:
            before = json.loads(SCORE.read_text())
            others = [found for found in before["survivors"] if found["module"] not in score["modules"]]
            score = _score(chosen.seed, before["modules"] | score["modules"], others + score["survivors"])
        SCORE.write_text(json.dumps(score, indent=1) + "\n")
    _print(score)
    return int(score["percent"] < chosen.least)


def _counted(mutants: list[Mutant], killed: list[bool]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Mutants and killed ones by module, and the survivors."""
    modules: dict[str, Any] = {}
    survivors = []
    for mutant, dead in zip(mutants, killed, strict=True):
        row = modules.setdefault(mutant.module, {"mutants": 0, "killed": 0})
        row["mutants"] += 1
        row["killed"] += dead
        if not dead:
            before, after = mutant.lines()
            survivors.append({"module": mutant.module, "line": mutant.line, "before": before, "after": after})
    return modules, survivors


def _score(seed: int, modules: dict[str, Any], survivors: list[dict[str, Any]]) -> dict[str, Any]:
    reasons = {
        (module, found["after"]): found["reason"] for module, some in tomllib.loads(REASONS.read_text()).items() for found in some
    }
    for found in survivors:
        found["reason"] = reasons.get((found["module"], found["after"]), "open")
    total, killed = (sum(found[name] for found in modules.values()) for name in ("mutants", "killed"))
    return {
        "seed": seed, "mutants": total, "killed": killed, "percent": round(100 * killed / total, 1),
        "modules": dict(sorted(modules.items())),
        "survivors": sorted(survivors, key=lambda found: (found["module"], found["line"], found["after"])),
    }  # fmt: skip


def _print(score: dict[str, Any]) -> None:
    for module, found in score["modules"].items():
        print(f"{module:48} {found['killed']:4} of {found['mutants']:4}  {100 * found['killed'] / found['mutants']:5.1f} %")
    for found in score["survivors"]:
        print(f"survived: {found['module']}: {found['after']}  ({found['reason']})")
    print(f"{score['killed']} of {score['mutants']} mutants killed, {score['percent']} % (seed {score['seed']})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
