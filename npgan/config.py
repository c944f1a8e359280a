"""Every hyper-parameter of a run in one frozen, validated object. A run is a pure function of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from npgan.errors import InputError

LOSSES = ("bce", "bce-logits")
DATASETS = ("mnist", "digits")

NETWORKS = ("tutorial", "paper-2014")
OPTIMISERS = ("adam", "sgd")

PRESETS: dict[str, dict[str, Any]] = {
    "tutorial": {},
    "paper-2014": {  # Goodfellow et al. 2014 on MNIST, by the settings published with it
        "networks": "paper-2014",
        "optimiser": "sgd",
        "batch_size": 100,
        "lr_g": 0.1,
        "lr_d": 0.1,
        "lr_decay": 1.000004,
        "momentum": 0.5,
        "momentum_final": 0.7,
        "momentum_steps": 125_000,  # 250 epochs of 500
        "dropout": 0.5,
        "input_dropout": 0.2,
        "dropout_in_g_step": True,
        "train_images": 50_000,
    },
}

_ADDED_LATER = {
    "train_images", "eval_every", "networks", "optimiser", "lr_decay", "momentum", "momentum_final", "momentum_steps",
    "input_dropout",
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """The tutorial's values are the defaults. Raises InputError, naming the flag, for a value that cannot be meant.

    Every field is a flag of ``npgan train``, with dashes for underscores.
    """

    dataset: str = "mnist"  # what was loaded: "auto" is settled before a config is made
    epochs: int = 1000
    batch_size: int = 128
    latent_dim: int = 100
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.999
    adam_epsilon: float = 1e-8
    leaky_slope: float = 0.2
    dropout: float = 0.3
    loss: str = "bce"
    dropout_in_g_step: bool = False
    label_smoothing: float = 0.0  # one-sided: the target of real images is 1 − this
    output_period: int = 100  # epochs between previews and sample PNGs
    seed: int = 0
    train_images: int | None = None  # how many of the first training images are used; None: all
    eval_every: int | None = None  # epochs between evaluations while training; None: no evaluation
    networks: str = "tutorial"
    optimiser: str = "adam"
    lr_decay: float = 1.0  # SGD: both learning rates are divided by this after every iteration
    momentum: float = 0.5  # SGD, at the start; it goes in a straight line to ...
    momentum_final: float = 0.5  # ... this ...
    momentum_steps: int = 1  # ... over so many iterations
    input_dropout: float = 0.0  # paper-2014's discriminator: of the pixels

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "latent_dim", "output_period", "momentum_steps"):
            _check_integer(name, getattr(self, name), 1, 2**31 - 1)
        for name in ("train_images", "eval_every"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1, 2**31 - 1)
        _check_integer("seed", self.seed, 0, 2**64 - 1)
        for name in ("lr_g", "lr_d", "adam_epsilon"):
            _check_number(name, getattr(self, name), lambda v: 0 < v <= 1e6, "above 0 and at most 1e6")
        for name in ("beta1", "beta2", "leaky_slope", "dropout", "input_dropout", "momentum", "momentum_final"):
            _check_number(name, getattr(self, name), lambda v: 0 <= v < 1, "at least 0 and below 1")
        for name in ("dropout", "input_dropout"):
            if getattr(self, name) > 0.999:
                raise InputError(f"{_flag(name)} must be at most 0.999, got {getattr(self, name)}")
        _check_number("lr_decay", self.lr_decay, lambda v: 1 <= v <= 2, "from 1 to 2")
        if self.input_dropout and self.networks == "tutorial":
            raise InputError("--input-dropout: only the networks of --preset paper-2014 have it")
        _check_number("label_smoothing", self.label_smoothing, lambda v: 0 <= v < 0.5, "at least 0 and below 0.5")
        _check_choice("loss", self.loss, LOSSES)
        _check_choice("networks", self.networks, NETWORKS)
        _check_choice("optimiser", self.optimiser, OPTIMISERS)
        _check_choice("dataset", self.dataset, DATASETS)
        if not isinstance(self.dropout_in_g_step, bool):
            raise InputError(f"--dropout-in-g-step must be true or false, got {self.dropout_in_g_step!r}")

    def to_json(self) -> str:
        """Sorted, one field a line; ``from_json`` reads it back to an equal config."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Raises InputError for anything but an object with these fields."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the configuration is not JSON: {error}") from None
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> TrainConfig:
        """Raises InputError for unknown or missing fields and for values that cannot be meant.

        Fields that the first runs did not have may be missing, and then have the defaults, which were their only values.
        """
        if not isinstance(values, dict):
            raise InputError("the configuration is not a JSON object")
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise InputError(f"unknown configuration field: {', '.join(unknown)}")
        if missing := sorted(names - set(values) - _ADDED_LATER):
            raise InputError(f"missing configuration field: {', '.join(missing)}")
        return cls(**values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_integer(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{_flag(name)} must be a whole number from {low} to {high}, got {value!r}")


def _check_number(name: str, value: Any, holds: Any, meaning: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not holds(value):  # NaN holds nothing
        raise InputError(f"{_flag(name)} must be a number {meaning}, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{_flag(name)} must be one of {', '.join(choices)}, got {value!r}")
