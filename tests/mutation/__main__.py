"""``python -m tests.mutation sample`` runs a seeded sample, ``python -m tests.mutation score`` prints the committed score."""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections import Counter
from dataclasses import replace
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
    parser.add_argument("--minimum", type=int, help="mutants of each module, as far as it has so many")
    parser.add_argument("--only", help="beginning of a module's path, such as bbfuse/estimators")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--least", type=float, default=90.0, help="per cent that must be killed")
    parser.add_argument("--save", action="store_true", help=f"write {SCORE.name}")
    chosen = parser.parse_args(arguments)
    if chosen.what == "score":
        _print(json.loads(SCORE.read_text()))
        return 0
    settings, began = Settings.read(), time.monotonic()
    if chosen.minimum is not None:
        settings = replace(settings, minimum=chosen.minimum)
    mutants = sample(settings, chosen.mutants, chosen.seed, chosen.only)
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
    score = _score(mutants, killed, chosen.seed)
    if chosen.save:
        SCORE.write_text(json.dumps(score, indent=1) + "\n")
    _print(score)
    return int(score["percent"] < chosen.least)


def _score(mutants: list[Mutant], killed: list[bool], seed: int) -> dict[str, Any]:
    reasons = tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}
    total, good = Counter(mutant.module for mutant in mutants), Counter[str]()
    survivors = []
    for mutant, dead in zip(mutants, killed, strict=True):
        good[mutant.module] += dead
        if not dead:
            before, after = mutant.lines()
            reason = next((found["reason"] for found in reasons.get(mutant.module, []) if found["after"] == after), "open")
            survivors.append({"module": mutant.module, "line": mutant.line, "before": before, "after": after, "reason": reason})
    return {
        "seed": seed, "mutants": len(mutants), "killed": sum(killed), "percent": round(100 * sum(killed) / len(mutants), 1),
        "modules": {module: {"mutants": total[module], "killed": good[module]} for module in sorted(total)},
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
