"""Validation names the flag; JSON goes round."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from npgan.config import PRESETS, TrainConfig
from npgan.errors import InputError


def test_the_defaults_are_the_tutorials() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.latent_dim) == (1000, 128, 100)
    assert (config.lr_g, config.lr_d, config.beta1, config.beta2, config.adam_epsilon) == (2e-4, 2e-4, 0.9, 0.999, 1e-8)
    assert (config.leaky_slope, config.dropout, config.loss) == (0.2, 0.3, "bce")
    assert not config.dropout_in_g_step
    assert config.label_smoothing == 0


def test_json_round_trip() -> None:
    config = TrainConfig(dataset="digits", epochs=3, lr_g=1.5e-4, loss="bce-logits", seed=2**64 - 1)
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (name, value)
            for name in ("epochs", "batch_size", "latent_dim", "output_period")
            for value in (0, -1, 1.5, True)
        ],
        *[(name, value) for name in ("lr_g", "lr_d") for value in (0, -1e-4, float("nan"), float("inf"), "1", None)],
        *[
            (name, value)
            for name in ("beta1", "beta2", "dropout", "leaky_slope")
            for value in (-0.1, 1.0, float("nan"))
        ],
        ("epochs", 2**31),
        ("label_smoothing", 0.5),
        ("seed", -1),
        ("seed", 2**64),
        ("loss", "mse"),
        *[(name, value) for name in ("r1", "r2") for value in (-1.0, 1e7, float("nan"))],
        *[("ema", value) for value in (-0.1, 1.0)],
        ("lr_schedule", "linear"),
        ("dataset", "auto"),
        ("dropout_in_g_step", 1),
    ],
)
def test_bad_values_name_their_flag(field: str, value: Any) -> None:
    with pytest.raises(InputError, match="--" + field.replace("_", "-")) as caught:
        TrainConfig(**{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("epochs", "period", "previews"),
    [
        (1000, None, [1, 2, 5, 10, 20, 50, *range(100, 1001, 100)]),
        (250, None, [1, 2, 5, 10, 20, 50, 100, 200, 250]),
        (30, None, [1, 2, 5, 10, 20, 30]),
        (10, None, [1, 2, 4, 5, 6, 8, 10]),
        (3, None, [1, 2, 3]),
        (1, None, [1]),
        (250, 100, [100, 200, 250]),  # a number means what it always did
        (7, 3, [3, 6, 7]),
    ],
)
def test_when_samples_are_shown(epochs: int, period: int | None, previews: list[int]) -> None:
    config = TrainConfig(epochs=epochs, output_period=period)
    assert [epoch for epoch in range(1, epochs + 1) if config.previewed(epoch)] == previews


def test_a_short_run_shows_samples_five_times() -> None:
    for epochs in range(1, 60):
        config = TrainConfig(epochs=epochs)
        assert sum(map(config.previewed, range(1, epochs + 1))) >= min(epochs, 5)


def test_checkpoints_stay_as_often_as_before_there_were_early_previews() -> None:
    assert TrainConfig().milestone_period == 100
    assert TrainConfig(output_period=7).milestone_period == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "missing configuration field"),
        (json.dumps({**TrainConfig().to_dict(), "layers": 9}), "unknown configuration field: layers"),
        (json.dumps({**TrainConfig().to_dict(), "epochs": "many"}), "--epochs"),
        (json.dumps({**TrainConfig().to_dict(), "lr_d": 10**400}), "--lr-d"),
    ],
)
def test_bad_json_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig.from_json(text)
    assert "\n" not in str(caught.value)


def test_numpys_numbers_are_numbers() -> None:
    assert TrainConfig(lr_g=np.float64(1e-4), dropout=0).lr_g == 1e-4


@pytest.mark.parametrize(
    ("old", "read"),
    [
        ({"networks": "tutorial", "optimiser": "adam", "momentum": 0.9, "lr_decay": 1.5, "input_dropout": 0.0}, True),
        ({"networks": "paper-2014"}, False),
        ({"optimiser": "sgd", "momentum": 0.5}, False),
    ],
)
def test_fields_of_older_versions(old: dict[str, Any], read: bool) -> None:
    """Momentum meant nothing to Adam; what is the preset paper-2014's is no longer there."""
    values = {**TrainConfig().to_dict(), **old}
    if read:
        assert TrainConfig.from_dict(values) == TrainConfig()
    else:
        with pytest.raises(InputError, match="paper-2014"):
            TrainConfig.from_dict(values)


def test_not_an_object() -> None:
    with pytest.raises(InputError, match="not a JSON object"):
        TrainConfig.from_dict([1])  # type: ignore[arg-type]


def test_what_the_tutorial_does_not_have_is_not_written_for_it() -> None:
    """So the files of its runs, and their bytes, stay what they were."""
    added = {"r1", "r2", "ema", "lr_schedule"}
    assert not added & set(TrainConfig().to_dict())
    assert TrainConfig(ema=0.5).to_dict().keys() - TrainConfig().to_dict().keys() == {"ema"}
    preset = TrainConfig(dataset="digits", **PRESETS["r3gan"])
    assert TrainConfig.from_json(preset.to_json()) == preset


@pytest.mark.parametrize("flag", ["r1", "r2"])
def test_penalties_need_logits(flag: str) -> None:
    with pytest.raises(InputError, match="--r1 and --r2 are penalties on logits: take --loss bce-logits or") as caught:
        TrainConfig(**{flag: 1.0})
    assert "\n" not in str(caught.value)
    assert TrainConfig(**{flag: 1.0}, loss="bce-logits").penalized and not TrainConfig().penalized


def test_pairs_have_no_target_to_smooth() -> None:
    with pytest.raises(InputError, match="--loss relativistic .* --label-smoothing"):
        TrainConfig(loss="relativistic", label_smoothing=0.1)


def test_the_presets_values() -> None:
    config = TrainConfig(**PRESETS["r3gan"])
    assert (config.loss, config.r1, config.r2, config.dropout, config.ema) == ("relativistic", 1.0, 1.0, 0.0, 0.999)
    assert (config.lr_g, config.lr_d, config.beta1, config.beta2) == (5e-4, 5e-4, 0.0, 0.99)
    assert (config.batch_size, config.lr_schedule, config.label_smoothing) == (128, "constant", 0.0)
