"""The command line as others script against it, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bbfuse.cli.run import main
from tests.helpers.documents.pages import ROOT

SMALL = ["--chip-seed", "0", "--budget", "4000", "--validation.times", "3"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bbfuse.run", *arguments]


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment, timeout=170)


def without_seconds(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "seconds"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("run") / "local"
    done = call(*SMALL, "--out", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_the_summary_has_the_agreed_keys(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, _ = finished
    assert summary == json.loads((folder / "summary.json").read_text())
    assert set(summary) == {
        "schema", "config", "accuracy", "recovered_points", "lost_points", "queries", "answers", "target", "trust",
        "grown_at_step", "report", "energy", "seconds", "stopped", "versions", "earlier_versions",
    }  # fmt: skip
    accuracy = summary["accuracy"]
    assert set(accuracy) == {"clean", "clean_fused", "perturbed", "perturbed_head", "perturbed_fuse", "perturbed_fused"}
    assert set(accuracy["perturbed"]) == {"mean", "sd", "chips"}
    assert set(summary["queries"]) == {"images", "requests", "budget", "cost", "kept"}
    assert summary["queries"]["cost"] is None
    assert summary["queries"]["images"] <= summary["queries"]["budget"] == 4000
    nothing_asked = dict.fromkeys(("deterministic", "honours_chip", "noise", "drift"))
    assert summary["target"] == {"answers": "logits", **nothing_asked}
    assert set(summary["energy"]) == {"saving", "saving_bare", "saving_macs", "voltage"}
    assert summary["stopped"] == "budget"


def test_the_run_folder_is_complete_and_the_report_stands_alone(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, told = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "versions.json", "events.jsonl", "training.csv", "checkpoint", "fuse.pt", "summary.json", "report.html",
    }  # fmt: skip
    page = (folder / "report.html").read_text()
    assert re.findall(r"<figcaption>(.*?)</figcaption><svg", page) == [
        "Accuracy on owned validation images against images sent", "Accuracy on held-out images",
        "Images before and after the fuse", "Recovered points against energy saved",
    ]  # fmt: skip
    assert not re.search(r"""(src|href)=["']?http""", page.replace("http://www.w3.org", ""))
    words = set(re.findall(r"<text[^>]*>(.*?)</text>", page))
    assert {"no protection", "head alone", "fuse alone", "fuse and head"} <= words
    assert "images, loss" in told


def test_a_finished_run_says_its_summary_again(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, _ = finished
    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = call("--resume", str(folder), "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == summary
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_remote_equals_local_number_for_number(finished: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, local, _ = finished
    done = call(*SMALL, "--backend", "remote", "--out", str(tmp_path / "remote"), "--json")
    assert done.returncode == 0, done.stderr
    remote = json.loads(done.stdout)
    assert "started the built-in server at http://127.0.0.1:" in done.stderr
    assert remote["config"].pop("backend") == "remote"
    assert without_seconds(remote) == {
        **without_seconds(local),
        "config": {k: v for k, v in local["config"].items() if k != "backend"},
    }
    assert (tmp_path / "remote" / "events.jsonl").read_text() == (folder / "events.jsonl").read_text()
    port = int(re.search(r"127\.0\.0\.1:(\d+)", done.stderr).group(1))  # type: ignore[union-attr]
    assert not _listening(port)


def _listening(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("backend", "lines"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in (("local", 20), ("remote", 0))), ("remote", 20)],
)
def test_killed_and_resumed_it_is_the_same_run(
    backend: str, lines: int, finished: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, whole, _ = finished
    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = command(*SMALL, "--backend", backend, "--out", str(folder), "--json")
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        log = folder / "events.jsonl"
        deadline = time.monotonic() + 60
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    resumed = call("--resume", str(folder), "--json")
    assert resumed.returncode == 0, resumed.stderr
    summary = json.loads(resumed.stdout)
    summary["config"]["backend"] = "local"
    assert without_seconds(summary) == without_seconds(whole)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ("--backend local --optimizer backprop", "backprop needs gradients, but --backend local grants logits only", 2),
        (
            "--backend remote --optimizer backprop",
            "backprop needs gradients, but --backend remote grants logits only",
            2,
        ),
        ("--bit-error-rate 2", "--bit-error-rate must lie in", 2),
        ("--nonsense", "--nonsense", 2),
        ("--budget 100", "does not allow one step", 2),
        ("--data mnist", "--data must be digits, module:attribute, FILE.npz, a folder, or a hub id", 2),
        ("--target alexnet", "--target must be one of", 2),
        ("--generator ConvXXL", "--generator must be one of", 2),
        ("--images 5", "--images must lie in", 2),
        ("--backend remote --remote.url http://127.0.0.1:1", "cannot be reached", 2),
        ("--backend remote --remote.url http://127.0.0.1:1 --memory.bits 4", "--memory.bits has no effect with --remote.url", 2),
        ("--memory.bits 9", "error: --memory.bits must be 2 to 8, or 16, got 9", 2),
        ("--memory.errors profile", "go together", 2),
        ("--memory.errors profile --memory.profile nowhere.npz", "nowhere.npz is no chip profile", 2),
        ("--resume nowhere", "holds no run", 2),
        ("--init nowhere", "--init nowhere holds no fuse.pt", 2),
        ("--resume nowhere --budget 3", "give no others", 2),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    arguments: str, words: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == code
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("--out", str(tmp_path / "file" / "run"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be written" in done.stderr


@pytest.mark.slow
def test_a_server_that_goes_away_in_mid_run_ends_it_with_its_reason_and_nothing_is_lost(
    finished: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    _, whole, _ = finished
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    serve = [sys.executable, "-m", "backends.server", "--stop-with-stdin"]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        folder = tmp_path / "run"
        arguments = command(
            *SMALL, "--backend", "remote", "--remote.url", url, "--remote.attempts", "2", "--remote.watch", "0", "--out",
            str(folder), "--json",
        )  # fmt: skip
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
            while not (folder / "events.jsonl").exists() or (folder / "events.jsonl").read_bytes().count(b"\n") < 10:
                time.sleep(0.001)
            server.kill()
            told = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert re.search(r"error: .* gave no valid response in 2 attempts: .*continue with --resume", told)
    assert "Traceback" not in told
    port = url.rsplit(":", 1)[1]
    with subprocess.Popen(
        [*serve, "--port", port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        resumed = call("--resume", str(folder), "--json")
        server.kill()
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["accuracy"] == whole["accuracy"]


def test_the_short_help_has_the_common_flags_and_the_full_help_all() -> None:
    short, full = call("--help", cwd=ROOT), call("--help-all", cwd=ROOT)
    assert short.returncode == full.returncode == 0
    common = ("--backend", "--optimizer", "--bit-error-rate", "--chip-seed", "--population", "--head", "--images", "--budget")
    for flag in (*common, "--remote.url", "--help-all"):
        assert flag in short.stdout
    for flag in (*common[:4], "--spsa.c", "--remote.url", "--eopm.pool", "--ray.timeout"):
        assert flag in full.stdout
    assert "--spsa.c" not in short.stdout
    assert short.stdout.count("\n  --") <= 25
    assert max(map(len, short.stdout.splitlines())) <= 110


def test_the_console_script_finds_modules_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "bbfuse"  # as pip writes it
    script.write_text("import sys\nfrom bbfuse.cli.app import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "my_part.py").write_text("size = 3\n")
    (tmp_path / "work" / "my_module.py").write_text(
        "from torch import nn\n\ndef make(shape):\n    from my_part import size\n    return nn.Conv2d(1, 1, size, padding=1)\n"
    )
    flags = ["run", "--optimizer", "spsa", "--generator", "my_module:make", "--budget", "4000", "--plan", "--json"]
    done = subprocess.run(
        [sys.executable, str(script), *flags], capture_output=True, text=True, cwd=tmp_path / "work",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"]["generator"] == "my_module:make"
