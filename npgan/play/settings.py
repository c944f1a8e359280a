"""What can be set in the lab: hyper-parameters of ``config.TrainConfig``, and what the lab has besides. Texts in, texts out."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from typing import Any

from npgan.config import PRESETS, Flag, TrainConfig, check_fields
from npgan.errors import InputError
from npgan.play.base import Message
from npgan.play.points import POINTS, SHAPES

LATENT = 2  # G's noise is a point of the plane too, so that its image is a grid that can be drawn
LIVE = ("lr_g", "lr_d")  # may change while it learns; all others begin anew

# Of TrainConfig's fields those that mean something here, in the order of the page.
LABELS = {
    "loss": "Loss",
    "r1": "R1, γ on real points",
    "r2": "R2, γ on fakes",
    "lr_g": "Learning rate of G",
    "lr_d": "Learning rate of D",
    "beta1": "Adam's β₁",
    "beta2": "Adam's β₂",
    "ema": "EMA of G",
    "dropout": "Dropout in D",
    "dropout_in_g_step": "Dropout in the G step",
    "label_smoothing": "Label smoothing",
    "batch_size": "Batch size",
    "seed": "Seed",
}
DEFAULT_PRESET = "r3gan"

_WIDTHS = re.compile(r"\d{1,3}(, *\d{1,3}){0,3}")


def _widths(text: str) -> list[int]:
    return [int(width) for width in text.split(",")]


def _are_widths(text: str) -> bool:
    return bool(_WIDTHS.fullmatch(text)) and all(1 <= width <= 256 for width in _widths(text))


def _hidden(net: str) -> Any:
    bounds = "1 to 4 whole numbers from 1 to 256, such as 64, 64"
    return field(
        default="64, 64, 64", metadata={"flag": Flag(str, f"units of {net}'s hidden layers", bounds, _are_widths)}
    )


@dataclass(frozen=True)
class LabConfig:
    """What the lab has besides a TrainConfig. Raises InputError for a value that cannot be meant."""

    data: str = field(
        default=SHAPES[0],
        metadata={
            "flag": Flag(str, "what G is to imitate", f"one of {', '.join(SHAPES)}", SHAPES.__contains__, SHAPES)
        },
    )
    hidden_g: str = _hidden("G")
    hidden_d: str = _hidden("D")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def widths_g(self) -> list[int]:
        return _widths(self.hidden_g)

    @property
    def widths_d(self) -> list[int]:
        return _widths(self.hidden_d)


_LAB_LABELS = {"data": "Data", "hidden_g": "Widths of G", "hidden_d": "Widths of D"}


def controls() -> list[Message]:
    """What the page makes its controls of, in order."""
    declared = {each.name: each for kind in (LabConfig, TrainConfig) for each in fields(kind)}
    labels = _LAB_LABELS | LABELS
    return [_control(declared[name], label) for name, label in labels.items()]


def _control(each: Field[Any], label: str) -> Message:
    flag: Flag = each.metadata["flag"]
    return {
        "name": each.name,
        "label": label,
        "kind": flag.kind.__name__,
        "help": flag.help,
        "bounds": flag.bounds,
        "choices": flag.choices,
        "value": _text({**_defaults(), **_preset(DEFAULT_PRESET)}.get(each.name, each.default)),
        "live": each.name in LIVE,
    }


def presets() -> dict[str, dict[str, str]]:
    """By name the texts of the fields that any of them sets."""
    return {name: {key: _text(value) for key, value in _preset(name).items()} for name in ("tutorial", *PRESETS)}


def _preset(name: str) -> dict[str, Any]:
    """The tutorial's values are TrainConfig's defaults."""
    touched = {key for each in PRESETS.values() for key in each}
    defaults = {key: value for key, value in _defaults().items() if key in touched}
    return defaults | PRESETS.get(name, {})


def _defaults() -> dict[str, Any]:
    return {each.name: each.default for each in fields(TrainConfig)}


def read(texts: object) -> tuple[LabConfig, TrainConfig]:
    """The settings that the page's texts mean; what is missing has its default. Raises InputError."""
    if not isinstance(texts, dict):
        raise InputError("the settings are not a JSON object")
    lab = LabConfig(**_values(LabConfig, _LAB_LABELS, texts))
    config = TrainConfig(latent_dim=LATENT, **_values(TrainConfig, LABELS, texts))
    if config.batch_size > POINTS:
        raise InputError(
            f"Batch size must be at most {POINTS:,}, the points of the data set, got {config.batch_size:,}"
        )
    return lab, config


def read_rates(texts: Message) -> tuple[float, float]:
    """Both learning rates, of G and of D. Raises InputError."""
    values = _values(TrainConfig, {name: LABELS[name] for name in LIVE}, texts)
    config = TrainConfig(**values)
    return config.lr_g, config.lr_d


def _values(kind: type, labels: dict[str, str], texts: Message) -> dict[str, Any]:
    flags = {each.name: each.metadata["flag"] for each in fields(kind)}
    return {name: _value(labels[name], flags[name], texts[name]) for name in labels if name in texts}


def _value(label: str, flag: Flag, text: object) -> Any:
    """Raises InputError with the control's label, by which the page knows it."""
    values = {"true": True, "false": False}
    with suppress(KeyError, ValueError):
        value = values[str(text)] if flag.kind is bool else flag.kind(str(text).strip())
        if flag.holds(value):
            return value
    raise InputError(f"{label} must be {flag.bounds}, got {str(text)[:40]!r}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
