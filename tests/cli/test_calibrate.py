"""`sim calibrate`: one door to every fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli import status_of
from sim.cli.app import app
from sim.reading.data_files import measured
from sim.validation.services import host_fits

SAMPLES = measured() / "collectives"


def printed(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["calibrate", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["kernels", "nowhere"], "nowhere: there is no such file"),
        (["kernels"], "Missing argument"),
        (["collectives", "nowhere"], "nowhere: there is no such file"),
        (["experts", "nowhere"], "nowhere: there is no such file"),
        (["experts"], "Missing argument"),
        (["held-out", "nowhere"], "nowhere: there is no such file"),
        (["held-out", ".", "expert"], "known are kernels, collectives, experts; did you mean 'experts'"),
        (["held-out", "tests/cli", "experts"], "tests/cli has none of moe_all_to_all.csv"),
        (["guess"], "No such command 'guess'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["calibrate", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_the_help_names_every_fit() -> None:
    text = "\n".join(printed("--help"))
    assert all(name in text for name in ("kernels", "collectives", "experts", "hosts", "held-out"))


def test_every_block_of_expert_exchanges_is_printed_beside_what_is_written() -> None:
    head, *lines = printed("experts", str(SAMPLES / "experts.csv"))
    assert head == "block                  phase     points  fitted (written)"
    assert lines[-1].endswith("base_s 9.06e-05 (9.06e-05), across 0.623 (0.623)")


def test_hosts_are_printed_in_milliseconds_as_written_and_as_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host_fits, "all_fitted", lambda: [host_fits.HostFit("step_s of a host", 5.1e-3, 5e-3)]
    )
    assert printed("hosts")[-1].split() == ["step_s", "of", "a", "host", "5.100", "ms", "5.000", "ms"]


@pytest.mark.slow
def test_held_out_exchanges_stand_beside_plain_models(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "experts.csv", tmp_path / "moe_all_to_all.csv")
    title, heads, *rows = printed("held-out", str(tmp_path), "experts")
    assert "plain models" in title
    assert heads.endswith("link rate  alpha-beta")
    errors = {tuple(row.split()[:4]): [float(cell) for cell in row.split()[5:]] for row in rows}
    median, p90, _, link_rate, alpha_beta = errors["deepep_low_latency", "h100_sxm", "64", "combine"]
    assert median <= p90
    assert median < min(link_rate, alpha_beta)


@pytest.mark.slow
def test_power_names_the_error_on_each_model_that_a_fit_left_out(tmp_path: Path) -> None:
    path = tmp_path / "services.csv"
    llama, dense, experts = (
        "meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B-Instruct-2507"
    )  # fmt: skip
    rows = [
        (llama, 4, 8, 441, 117), (llama, 4, 256, 589, 4900), (dense, 2, 16, 450, 500),
        (dense, 2, 128, 560, 2600), (experts, 1, 16, 439, 900), (experts, 1, 64, 480, 2170),
    ]  # fmt: skip
    lines = ["model,gpu,gpus,mean_batch,mean_output_tokens,power_w,output_tok_per_s"]
    lines += [f"{name},H100,{gpus},{users},700,{gpus * w},{rate}" for name, gpus, users, w, rate in rows]
    path.write_text("\n".join(lines))
    said = printed("power", str(path))
    assert any("activation_nj" in line for line in said)
    assert sum("h100-sxm" in line for line in said) == 4  # the fit, and three models
