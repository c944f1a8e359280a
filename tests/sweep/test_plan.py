"""What a sweep runs, from a file or from flags, and what it refuses in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from npgan.cli import main
from npgan.config import PRESETS, TrainConfig
from npgan.errors import InputError
from npgan.sweep.plan import Plan, flags_of, make_plan, runs_of

STUDY = Path(__file__).parents[2] / "docs" / "examples" / "survival.toml"


def test_the_study_has_six_settings_of_twenty_seeds() -> None:
    plan = make_plan(STUDY, {}, [], None)
    assert plan.seeds == list(range(20)) and len(plan.settings) == 6
    assert all(own["epochs"] == 4 and own["train_images"] == 50000 for own in plan.settings.values())
    assert PRESETS["r3gan"].items() <= plan.settings["r3gan"].items()


def test_a_grid_of_flags_and_its_folders() -> None:
    plan = make_plan(
        None, {"epochs": 20, "beta1": 0.7}, ["loss=bce,bce-logits", "beta1=0.9,0.5", "dropout-in-g-step=true"], "0-1,7"
    )
    assert plan.seeds == [0, 1, 7]
    assert list(plan.settings)[1] == "loss=bce, beta1=0.5, dropout_in_g_step=true"
    runs = runs_of(plan, "mnist", Path("/x"))
    assert len(runs) == 12 == len({run.folder for run in runs})
    assert runs[1].folder == Path("/x/loss=bce,beta1=0.5,dropout_in_g_step=true/seed-0")
    assert (runs[1].config.beta1, runs[1].config.epochs, runs[1].config.dropout_in_g_step) == (0.5, 20, True)
    more = runs_of(plan._replace(seeds=[0, 1, 7, 1000]), "mnist", Path("/x"))
    assert [run.folder for run in more[:12]] == [run.folder for run in runs]  # what is done is not done again
    assert [run.seed for run in runs[:5]] == [0, 0, 0, 0, 1]  # every setting gets its first seed first


def test_flags_go_before_the_file_and_settings_before_what_all_have(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        "seeds = [3]\nepochs = 4\nlr-d = 1e-3\n[set]\nbatch_size = [64]\n[settings.a]\nlr_d = 2e-3\n[settings.b]\n"
    )
    plan = make_plan(file, {"epochs": 2}, [], "5")
    assert plan == Plan(
        {
            "a, batch_size=64": {"epochs": 2, "lr_d": 2e-3, "batch_size": 64},
            "b, batch_size=64": {"epochs": 2, "lr_d": 1e-3, "batch_size": 64},
        },
        [5],
    )


@pytest.mark.parametrize(
    "own", [{}, {"dropout_in_g_step": True, "train_images": 50}, PRESETS["r3gan"], {"lr_g": 1.23e-05}]
)
def test_the_words_for_train_mean_the_same_config(own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = TrainConfig(dataset="digits", seed=9, **own), []
    monkeypatch.setattr("npgan.cli._train", lambda values: seen.append(values) or 0)
    monkeypatch.setitem(__import__("npgan.cli").cli._COMMANDS, "train", lambda values: seen.append(values) or 0)
    assert main(["train", *flags_of(config)]) == 0
    names = set(config.to_dict()) | set(own)
    assert TrainConfig(**{name: seen[0][name] for name in names if name in seen[0]}) == config


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("", ["--seeds", "0", "--set", "lsos=bce"], "--set: there is no field lsos: did you mean loss?"),
        ("", ["--seeds", "0", "--set", "loss"], "--set loss: must be a field and its values"),
        ("", ["--seeds", "0", "--set", "loss="], "loss has no values: the grid is empty"),
        ("", ["--seeds", "0", "--set", "loss=bce,bce"], "loss has a value twice"),
        ("", ["--seeds", "0", "--set", "beta1=0.5,2"], "beta1=2.0: --beta1 must be a number at least 0 and below 1"),
        ("", ["--seeds", "0", "--set", "beta1=fast"], "--beta1 must be a number at least 0 and below 1, got 'fast'"),
        ("", ["--seeds", "0", "--set", "seed=1"], "there is no field seed"),
        ("", [], "no seeds: say which, as in --seeds 0-9"),
        ("", ["--seeds", "9-0"], "--seeds 9-0: must go up"),
        ("", ["--seeds", "0,0"], "a seed is there twice"),
        ("", ["--seeds", "a"], "--seeds must be numbers and ranges such as 0-9,12"),
        ("", ["--seeds", "0-9999", "--set", "loss=bce,bce-logits"], "20,000 runs are more than 10,000"),
        ("", ["--seeds", "0", "--workers", "0"], "--workers must be from 1 to 1024, got 0"),
        ("", ["--seeds", "0", "--workers", "2", "--scheduler", "tcp://x:1"], "leave it out with --scheduler"),
        ("", ["--seeds", "0", "--data-dir", "nowhere"], "nowhere"),
        ("seeds = 0\nepoch = 3", [], "there is no field epoch: did you mean epochs?"),
        ("seeds = []", [], "--seeds is empty: there is nothing to run"),
        ("seeds = [true]", [], "--seeds must be numbers and ranges"),
        ("seeds = 0\n[settings]", [], "[settings] is empty: there is nothing to run"),
        ("seeds = 0\n[settings]\na = 1", [], "[settings] a must be a table"),
        ("seeds = 0\nset = 1", [], "set must be a table"),
        ("seeds = 0\n[set]\nloss = 'bce'", [], "[set] loss must be a list of values"),
        ("seeds = 0\n[settings.'a b']\n[settings.'a-b']", [], "'a b' and 'a-b' would have one folder"),
        ("seeds = 0\n[settings.a]\npreset = 'x'", [], "a: preset must be one of none, r3gan, got 'x'"),
        ("seeds = ", [], "is not TOML"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line_and_starts_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "plan.toml").write_text(text)
        words = ["plan.toml", *words]
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("npgan sweep: error: ") and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"plan.toml"}


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        make_plan(tmp_path / "x.toml", {}, [], None)


def test_without_dask_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.delitem(sys.modules, "npgan.sweep.cluster", raising=False)
    assert main(["sweep", "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "npgan sweep: error: dask is not installed: pip install 'npgan[sweep]'\n"
