"""What cannot work is refused before anything is opened, and by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from backends.interface import InputError
from bbfuse.config import GRANTS, RunConfig, from_dict, to_dict, validate
from bbfuse.methods import METHODS, SpsaConfig
from bbfuse.records import RunFolder
from bbfuse.run import parse


def test_every_default_combination_that_access_allows_is_valid() -> None:
    for backend, granted in GRANTS.items():
        for optimizer, method in METHODS.items():
            for chip in (None, 0):
                config = RunConfig(backend=backend, optimizer=optimizer, chip_seed=chip)  # type: ignore[arg-type]
                if method.needs <= granted:
                    validate(config)
                else:
                    with pytest.raises(
                        InputError, match=f"--optimizer {optimizer} needs gradients, but --backend {backend} grants"
                    ):
                        validate(config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--bit-error-rate 1.5", r"bit_error_rate must lie in \[0, 1\], got 1.5"),
        ("--bit-error-rate -0.1", r"bit_error_rate must lie in \[0, 1\], got -0.1"),
        ("--bit-error-rate nan", r"bit_error_rate must lie in \[0, 1\], got nan"),
        ("--budget 0", "--budget must be above 0, got 0"),
        ("--batch -3", "--batch must be above 0, got -3"),
        ("--seed -1", "--seed must be 0 or more, got -1"),
        ("--chip-seed -1", "chip seed must be a non-negative integer, got -1"),
        ("--rge.lr inf", "--rge.lr must be above 0, got inf"),
        ("--optimizer spsa --spsa.pairs 0", "--spsa.pairs must be above 0, got 0"),
        ("--spsa.c 0.1", "--spsa.c has no effect without --optimizer spsa"),
        ("--spsa-gc.a 0.1", "--spsa-gc.a has no effect without --optimizer spsa-gc"),
        ("--optimizer cma --cma.subspace 0", "--cma.subspace must be above 0, got 0"),
        ("--remote.url http://127.0.0.1:1", "--remote.url has no effect without --backend remote"),
        ("--remote.price 2", "--remote.price has no effect without --backend remote"),
        ("--backend remote --remote.price -2", "--remote.price must be 0 or more, got -2"),
        ("--backend remote --remote.patience 0", "--remote.patience must be above 0, got 0"),
        ("--backend remote --remote.requests-per-second -1", "--remote.requests-per-second must be above 0, got -1"),
        ("--backend remote --remote.reserve -0.1", "--remote.reserve must be 0 or more, got -0.1"),
        ("--backend remote --remote.reserve 1", r"--remote.reserve must lie in \[0, 1\), got 1"),
        ("--backend remote --remote.key-env K", "--remote.key-env has no effect without --remote.url"),
        ("--backend remote --remote.layout nhwc", "--remote.layout has no effect without --remote.url"),
        ("--backend remote --remote.protocol tensorflow", "--remote.protocol tensorflow needs --remote.url"),
        ("--backend remote --remote.url ftp://a", "--remote.url ftp://a cannot be reached"),
        (
            "--backend remote --remote.url https://a --remote.key-header X",
            "--remote.key-header has no effect without --remote.key-env",
        ),
        ("--backend remote --remote.url http://a --remote.ca c.pem", "--remote.ca has no effect without an https address"),
        (
            "--backend remote --remote.url http://a --remote.request {}",
            "--remote.protocol json needs --remote.request, .* give both",
        ),
        ("--backend remote --remote.url http://a --remote.protocol json", "--remote.protocol json needs --remote.request"),
        (
            "--backend remote --remote.url http://a --remote.protocol oip --remote.response a",
            "--remote.response has no effect with --remote.protocol oip",
        ),
        ("--chip-seed 0 --standardize.images 9", "--standardize.images has no effect without --head standardize"),
        ("--head affine", "--head affine is learnt for one chip"),
        ("--chip-seed 0 --report.chips 3", "--report.chips has no effect with --chip-seed"),
        ("--warm-up -1", "--warm-up must be 0 or more, got -1"),
        ("--optimizer transfer --grow Filter", "--grow does not go with --optimizer transfer, .*: drop it or"),
        ("--optimizer follow --warm-up 2000", "--warm-up does not go with --optimizer follow, .*: drop it or"),
        ("--optimizer guided --grow Filter", "--grow does not go with --optimizer guided, .*: drop it or"),
        ("--augment", "--augment does not go with --optimizer rge, .* or --rge.no-broyden"),
        ("--augment --optimizer guided", "--augment does not go with --optimizer guided, .*another method$"),
        ("--init runs/a --grow Filter", "--grow does not go with --init, .*: drop one of the two"),
        ("--init runs/a --warm-up 2000", "--warm-up does not go with --init, .*: drop one of the two"),
        ("--rge.space parameters --rge.no-broyden", "--rge.no-broyden has no effect"),
    ],
)
def test_bad_values_are_named_with_the_way_out(arguments: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        validate(parse(arguments.split()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--optimiser rge", "--optimiser"),
        ("--backend cloud", "cloud.*local.*remote.*whitebox"),
        ("--budget many", "--budget.*many"),
        ("--spsa.x 1", "--spsa.x"),
        ("rge", "rge"),
    ],
)
def test_wrong_flags_are_one_line(arguments: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        parse(arguments.split())
    assert "\n" not in str(error.value)
    assert not any(frame in str(error.value) for frame in "─│╭╰")


def test_settings_survive_their_file_and_say_nothing_of_where_they_lie(tmp_path: Path) -> None:
    config = RunConfig(optimizer="spsa", spsa=SpsaConfig(c=0.5), chip_seed=4, out=tmp_path / "run", json=True)
    plain = json.loads(json.dumps(to_dict(config)))
    assert str(tmp_path) not in json.dumps(plain)
    assert from_dict(plain) == dataclasses.replace(config, out=None, json=False)


@pytest.mark.parametrize("change", [{"colour": 1}, {"rge": {"colour": 1}}, {"backend": "cloud"}, {"rge": {"space": "moon"}}])
def test_an_edited_file_with_unknown_settings_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"config\.json has"):
        from_dict({**to_dict(RunConfig()), **change})


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"rge": 3}', "null"])
def test_a_folder_without_a_run_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="holds no run"):
        RunFolder.open(tmp_path)


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty"):
        RunFolder.create(tmp_path, RunConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder.create(tmp_path / "thesis.tex" / "run", RunConfig())
