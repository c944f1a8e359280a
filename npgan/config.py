"""Every hyper-parameter of a run in one frozen, validated object. A run is a pure function of it and of its data.

A hyper-parameter is declared here and nowhere else: its default, its type, its bounds and what is said of it. The flags of
``npgan train`` and their table in the docs are made from that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from npgan.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class OtherVersion(InputError):
    """What was read is sound, but of a version of npgan that this one does not read."""


class Flag(NamedTuple):
    """What is known of a hyper-parameter besides its default."""

    kind: type  # int, float, str or bool
    help: str
    bounds: str  # for people, such as "a number above 0"
    holds: Callable[[Any], bool]  # of a value of that type
    choices: tuple[str, ...] = ()
    unset: str = ""  # what the default None is called, such as "all"


def _declared(flag: Flag, default: Any) -> Any:
    return field(default=default, metadata={"flag": flag})


def _integer(default: int | None, text: str, low: int = 1, high: int = 2**31 - 1, unset: str = "") -> Any:
    bounds = f"a whole number from {low} to {high}"
    return _declared(Flag(int, text, bounds, lambda value: low <= value <= high, unset=unset), default)


def _number(default: float, text: str, bounds: str, holds: Callable[[float], bool]) -> Any:
    return _declared(Flag(float, text, f"a number {bounds}", holds), default)


def _rate(default: float, text: str) -> Any:
    return _number(default, text, "above 0 and at most 1e6", lambda value: 0 < value <= 1e6)


def _share(default: float, text: str) -> Any:
    return _number(default, text, "at least 0 and below 1", lambda value: 0 <= value < 1)


def _choice(default: str, text: str, *choices: str) -> Any:
    return _declared(Flag(str, text, f"one of {', '.join(choices)}", lambda value: value in choices, choices), default)


def _penalty(text: str) -> Any:
    return _number(0.0, text, "at least 0 and at most 1e6", lambda value: 0 <= value <= 1e6)


def _switch(text: str) -> Any:
    return _declared(Flag(bool, text, "true or false", lambda value: True), False)


_EARLY_PREVIEWS = (1, 2, 5, 10, 20, 50)  # epochs, where no ``output_period`` is given
_PREVIEW_PERIOD = 100  # from there on
_FEWEST_PREVIEWS = 5  # in a run of at least so many epochs

# What differs from the defaults, by the name of the recipe. A flag given beside --preset goes before it.
PRESETS: dict[str, dict[str, Any]] = {
    # Huang et al. 2024, "The GAN is dead; long live the GAN!", for the tutorial's two networks: see docs/recipe.md
    "r3gan": {
        "loss": "relativistic", "r1": 1.0, "r2": 1.0, "dropout": 0.0, "ema": 0.999,
        "lr_g": 5e-4, "lr_d": 5e-4, "beta1": 0.0, "beta2": 0.99,
    },
}  # fmt: skip

# at their defaults, so that files of the tutorial's runs stay what they were
_NOT_WRITTEN = ("r1", "r2", "ema", "lr_schedule")
_ADDED_LATER = ("train_images", "eval_every", *_NOT_WRITTEN)  # fields that the first runs did not have
_REMOVED = {
    "networks": "tutorial",
    "optimiser": "adam",
    "input_dropout": 0.0,
}  # others are the preset paper-2014's, now gone
_IGNORED = ("lr_decay", "momentum", "momentum_final", "momentum_steps")  # of that preset's optimizer: nothing to Adam


@dataclass(frozen=True)
class TrainConfig:
    """The tutorial's values are the defaults. Raises InputError, naming the flag, for a value that cannot be meant.

    Every field is a flag of ``npgan train``, with dashes for underscores.
    """

    dataset: str = _choice("mnist", "what was loaded: auto is settled before a config is made", "mnist", "digits")
    epochs: int = _integer(1000, "passes over the training images")
    batch_size: int = _integer(128, "real images in an iteration; as many fakes join them")
    latent_dim: int = _integer(100, "length of the generator's noise vectors")
    lr_g: float = _rate(2e-4, "Adam's learning rate for the generator")
    lr_d: float = _rate(2e-4, "Adam's learning rate for the discriminator")
    beta1: float = _share(0.9, "Adam's decay of the first moment (many GANs take 0.5)")
    beta2: float = _share(0.999, "Adam's decay of the second moment")
    adam_epsilon: float = _rate(1e-8, "Adam's ε, outside the root")
    leaky_slope: float = _share(0.2, "slope of leaky ReLU left of 0")
    dropout: float = _number(
        0.3, "probability that dropout sets an element of D to 0", "from 0 to 0.999", lambda value: 0 <= value <= 0.999
    )
    loss: str = _choice(
        "bce",
        "cross-entropy on probabilities, as the tutorial, or on logits; or on the logits of pairs of a real and a fake image",
        "bce",
        "bce-logits",
        "relativistic",
    )
    r1: float = _penalty("γ of the gradient penalty on real images, γ/2·mean‖∂z/∂x‖²: needs a loss on logits")
    r2: float = _penalty("the same on fake images")
    ema: float = _share(
        0.0, "samples are drawn with an average of G's weights that keeps this part of itself; 0: with the last"
    )
    lr_schedule: str = _choice(
        "constant",
        "cosine: both learning rates fall from epoch to epoch, ½(1 + cos(π·e/epochs)) of them",
        "constant",
        "cosine",
    )
    dropout_in_g_step: bool = _switch("keep dropout on while the generator learns")
    label_smoothing: float = _number(
        0.0, "real images get the target 1 minus this", "at least 0 and below 0.5", lambda value: 0 <= value < 0.5
    )
    output_period: int | None = _integer(
        None,
        "epochs between previews and sample PNGs; auto: after epochs "
        f"{', '.join(map(str, _EARLY_PREVIEWS))} and every {_PREVIEW_PERIOD}, in a short run at least {_FEWEST_PREVIEWS}",
        unset="auto",
    )
    seed: int = _integer(0, "the same seed and settings give the same run, byte for byte", 0, 2**64 - 1)
    train_images: int | None = _integer(
        None, "use only the first so many; 50000 is what published Parzen figures trained on", unset="all"
    )
    eval_every: int | None = _integer(
        None, "epochs between evaluations of 10,000 samples: figures, and their curves as a PNG", unset="never"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size * self.latent_dim >= 2**32:
            raise InputError("--batch-size times --latent-dim must be below 2**32, the numbers of one draw")
        if self.penalized and self.loss == "bce":
            raise InputError("--r1 and --r2 are penalties on logits: take --loss bce-logits or --loss relativistic")
        if self.loss == "relativistic" and self.label_smoothing:
            raise InputError(
                "--loss relativistic compares a real image with a fake one: --label-smoothing has no target there"
            )

    @property
    def penalized(self) -> bool:
        return self.r1 > 0 or self.r2 > 0

    @property
    def milestone_period(self) -> int:
        """Epochs from one checkpoint that is kept for good to the next."""
        return _PREVIEW_PERIOD if self.output_period is None else self.output_period

    def previewed(self, epoch: int) -> bool:
        """Whether samples are shown and written after ``epoch``, which counts from 1."""
        if epoch == self.epochs or epoch % self.milestone_period == 0:
            return True
        if self.output_period is not None:
            return False
        shares = {-(-self.epochs * part // _FEWEST_PREVIEWS) for part in range(1, _FEWEST_PREVIEWS)}
        return epoch in _EARLY_PREVIEWS or (self.epochs <= 2 * _FEWEST_PREVIEWS and epoch in shares)

    def to_json(self) -> str:
        """Sorted, one field a line; ``from_json`` reads it back to an equal config."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {n: v for n, v in values.items() if n not in _NOT_WRITTEN or v != getattr(TrainConfig, n)}

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Raises InputError for anything but an object with these fields."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the configuration is not JSON: {error}") from None
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Raises InputError for missing fields and for values that cannot be meant, OtherVersion for unknown ones.

        Runs of older versions are read: what they lack has its default, what is no longer there must have had its own.
        """
        if not isinstance(values, dict):
            raise InputError("the configuration is not a JSON object")
        if any(values.get(name, default) != default for name, default in _REMOVED.items()):
            raise OtherVersion("the configuration is one of the preset paper-2014, which this version no longer has")
        names, given = {each.name for each in fields(cls)}, set(values) - {*_REMOVED, *_IGNORED}
        if unknown := sorted(given - names):
            raise OtherVersion(f"unknown configuration field: {', '.join(unknown)}")
        if missing := sorted(names - given - set(_ADDED_LATER)):
            raise InputError(f"missing configuration field: {', '.join(missing)}")
        return cls(**{name: values[name] for name in given})


def check_fields(settings: DataclassInstance) -> None:
    """Raises InputError, naming the flag, for a field of a kind or a value that its ``Flag`` does not allow."""
    for each in fields(settings):
        flag, value = each.metadata["flag"], getattr(settings, each.name)
        kinds = (int, float) if flag.kind is float else flag.kind
        if value is None and each.default is None:
            continue
        is_kind = isinstance(value, kinds) and isinstance(value, bool) == (flag.kind is bool)
        if not is_kind or not flag.holds(value):  # NaN holds nothing
            raise InputError(f"{flag_name(each.name)} must be {flag.bounds}, got {value!r}")


def shown_value(name: str, value: object) -> str:
    """The value of a field for people: "auto" where ``output_period`` is None."""
    flag = next(each.metadata["flag"] for each in fields(TrainConfig) if each.name == name)
    return str(flag.unset if value is None else value)


def flag_name(field_name: str) -> str:
    """``--batch-size`` for ``batch_size``."""
    return "--" + field_name.replace("_", "-")
