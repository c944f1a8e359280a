"""What a sweep runs: settings times seeds, each an ordinary run in a folder of its own."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from npgan.config import PRESETS, TrainConfig, flag_name
from npgan.errors import InputError, first_line

Fields = dict[str, Any]  # of TrainConfig: those that are given

MOST_RUNS = 10_000
_MOST_TEXT = 1 << 20  # bytes of a plan that we are willing to read
_FIELDS = {each.name: each.metadata["flag"] for each in fields(TrainConfig) if each.name not in ("dataset", "seed")}
_NO_PRESET = "none"


class Plan(NamedTuple):
    """Every setting is run with every seed."""

    settings: dict[str, Fields]  # by name
    seeds: list[int]


class Run(NamedTuple):
    """One of them."""

    setting: str
    seed: int
    config: TrainConfig
    folder: Path  # absolute: a worker may have another current folder

    @property
    def name(self) -> str:
        return f"{self.setting}, seed {self.seed}"


def make_plan(file: Path | None, given: Fields, sets: Sequence[str], seeds: str | None) -> Plan:
    """From a plan in TOML, or from flags alone; flags go before what the file says.

    ``given``: fields of TrainConfig and ``preset``, for all runs. ``sets``: "loss=bce,bce-logits": the grid.
    ``seeds``: "0-9,12". Raises InputError for what cannot be meant and for an empty grid.
    """
    written = _read(file) if file else {}
    where = f"{file}: " if file else ""
    every = _named_fields({name: written[name] for name in written if name not in ("seeds", "set", "settings")}, where)
    grid = _table(written, "set", where)
    grid |= dict(map(_parse_set, sets))
    named = _table(written, "settings", where) if "settings" in written else {"": {}}
    if not named:
        raise InputError(f"{where}[settings] is empty: there is nothing to run")
    axes = [[(_field(name, where), value) for value in _values(name, values, where)] for name, values in grid.items()]
    settings: dict[str, Fields] = {}
    for label, own in named.items():
        if not isinstance(own, dict):
            raise InputError(f"{where}[settings] {label} must be a table of fields, such as [settings.{label}]")
        own = _named_fields(own, where)
        for point in product(*axes):
            parts = [label, *(f"{name}={_shown(value)}" for name, value in point)]
            name = ", ".join(filter(None, parts)) or "default"
            if name in settings:
                raise InputError(f"{where}the setting {name} is there twice")
            settings[name] = _with_preset({**every, **own, **given, **dict(point)}, f"{where}{name}: ")
    found = seeds if seeds is not None else written.get("seeds")
    if found is None:
        raise InputError(f"{where}no seeds: say which, as in --seeds 0-9")
    plan = Plan(settings, _seeds(found))
    if len(settings) * len(plan.seeds) > MOST_RUNS:
        raise InputError(f"{where}{len(settings) * len(plan.seeds):,} runs are more than {MOST_RUNS:,}")
    runs_of(plan, "digits", Path())  # what TrainConfig refuses is told now
    return plan


def runs_of(plan: Plan, dataset: str, out: Path) -> list[Run]:
    """All runs: every setting with the first seed, then with the second … Raises InputError."""
    runs, names = [], {setting: _folder_name(setting) for setting in plan.settings}
    for first, second in _twins(names):
        raise InputError(f"the settings {first!r} and {second!r} would have one folder: give one another name")
    for seed, (setting, own) in product(plan.seeds, plan.settings.items()):
        try:
            config = TrainConfig(dataset=dataset, seed=seed, **own)
        except InputError as error:
            raise InputError(f"{setting}: {error}") from None
        runs.append(Run(setting, seed, config, out.resolve() / names[setting] / f"seed-{seed}"))
    return runs


def flags_of(config: TrainConfig) -> list[str]:
    """The words behind ``npgan train`` that ask for this config."""
    words = []
    for each in fields(TrainConfig):
        value = getattr(config, each.name)
        if value is True:
            words.append(flag_name(each.name))
        elif value is not None and value is not False:
            words += [flag_name(each.name), str(value)]
    return words


def _read(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            raise InputError(f"{file}: no such file")
        with open(file, "rb") as opened:
            text = opened.read(_MOST_TEXT + 1)
        if len(text) > _MOST_TEXT:
            raise InputError(f"{file}: is longer than {_MOST_TEXT} bytes")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not TOML: {first_line(error)}") from None


def _table(written: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    table = written.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{where}{name} must be a table: [{name}]")
    return dict(table)


def _named_fields(values: dict[str, Any], where: str) -> Fields:
    return {_field(name, where): value for name, value in values.items()}


def _field(name: str, where: str) -> str:
    """The field's name, also written with dashes. Raises InputError with the nearest one."""
    field, known = name.replace("-", "_"), [*_FIELDS, "preset"]
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        told = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"{where}there is no field {name}: {told}")
    return field


def _parse_set(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: must be a field and its values, such as loss=bce,bce-logits")
    field = _field(name.strip(), "--set: ")
    return field, [_parse_value(field, value.strip()) for value in values.split(",") if value.strip()]


def _parse_value(field: str, text: str) -> Any:
    """As a field's flag reads it; what it cannot be is told by TrainConfig."""
    kind = str if field == "preset" else _FIELDS[field].kind
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def _values(name: str, values: Any, where: str) -> list[Any]:
    if not isinstance(values, list):
        raise InputError(f"{where}[set] {name} must be a list of values")
    if not values:
        raise InputError(f"{where}{name} has no values: the grid is empty")
    if len({repr(value) for value in values}) < len(values):
        raise InputError(f"{where}{name} has a value twice")
    return values


def _with_preset(own: Fields, where: str) -> Fields:
    preset = own.pop("preset", _NO_PRESET)
    if preset != _NO_PRESET and preset not in PRESETS:
        raise InputError(f"{where}preset must be one of {', '.join([_NO_PRESET, *PRESETS])}, got {preset!r}")
    return PRESETS.get(preset, {}) | own


def _seeds(text: object) -> list[int]:
    """From "0-9,12", or from a list of numbers. Raises InputError."""
    parts: list[Any] = text if isinstance(text, list) else [part.strip() for part in str(text).split(",")]
    found: list[int] = []
    for part in parts:
        match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", str(part), re.ASCII)
        if match is None or isinstance(part, bool):
            raise InputError(f"--seeds must be numbers and ranges such as 0-9,12, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < 2**64 or last - first >= MOST_RUNS:
            raise InputError(f"--seeds {part}: must go up, below 2**64, and be at most {MOST_RUNS:,} numbers")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise InputError(f"--seeds {text}: a seed is there twice")
    if not found:
        raise InputError("--seeds is empty: there is nothing to run")
    return found


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _folder_name(setting: str) -> str:
    """Of letters, digits and = + . - alone, and no hidden file: "loss=bce,beta1=0.5"."""
    return re.sub(r"[^\w=+.,-]+", "-", setting.replace(", ", ",")).strip(".-,") or "setting"


def _twins(names: dict[str, str]) -> list[tuple[str, str]]:
    """Settings whose folders a file system could take for one another."""
    seen: dict[str, str] = {}
    twins = []
    for setting, folder in names.items():
        if folder.lower() in seen:
            twins.append((seen[folder.lower()], setting))
        seen[folder.lower()] = setting
    return twins
