"""The command line, ``npgan <command>``. Nothing heavy is imported before a command has its arguments."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import Field, fields
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from npgan import __version__
from npgan.config import PRESETS, TrainConfig, flag_name, shown_value
from npgan.engines import KERNELS, Compute
from npgan.engines.cpu import blas
from npgan.engines.ranks import launched_here, ranks_of_this_run
from npgan.errors import InputError, first_line, one_line
from npgan.runs.colormaps import COLORMAP, COLORMAPS
from npgan.runs.output import let_go, unfailing_output

if TYPE_CHECKING:
    from npgan.runs.folder import RunFolder
    from npgan.runs.train import Observer

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage in front; flags as they are spelled, never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {one_line(message)}\n")

    def flags(self) -> list[str]:
        return list(self._option_string_actions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status: 0 done, 1 failed, 2 the user's mistake, 128 + n stopped by signal n."""
    _set_up_streams()
    command = ""
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        parser, commands = _parser()
        _check_spelling(parser, commands, words)
        values = vars(parser.parse_args(words))
        command = values.pop("command")
        # NumPy is not imported yet: it will read this when it is
        threads = None if command == "sweep" else values.pop("threads", None)  # its runs' are their own
        if threads is None and command == "train":
            threads = _threads_of_a_rank(values["same_bytes"])
        setup = blas.prepare(values.pop("blas_core", "auto"), threads)
        if command in _SHOW_BLAS:
            values["blas"] = setup
        return int(_COMMANDS[command](values))
    except InputError as error:
        return _complain(command, error, EXIT_USAGE)
    except KeyboardInterrupt as stop:
        return _complain(command, str(stop) or "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output is gone; there is nobody to tell
        return EXIT_FAILURE
    except (OSError, MemoryError, RuntimeError) as error:
        return _complain(command, str(error) or type(error).__name__, EXIT_FAILURE)
    except Exception as error:
        if not type(error).__module__.startswith("cupy"):  # its compiler's error, say, has no base class but this
            raise
        return _complain(command, f"CuPy: {first_line(error)}", EXIT_FAILURE)
    finally:
        for stream in (sys.stdout, sys.stderr):
            let_go(stream)


def _set_up_streams() -> None:
    """Output in order of time where it is not a terminal, too; "?" for what its encoding lacks, not an end."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # whoever calls main() may have put something else in place
            stream.reconfigure(line_buffering=True, errors="replace")


def _check_spelling(parser: _Parser, commands: dict[str, _Parser], words: Sequence[str]) -> None:
    """Ends the program, with the nearest name, at the first command or flag that does not exist."""
    place = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    for flag in _unknown_flags(parser, words[:place]):
        home = next((name for name, command in commands.items() if flag in command.flags()), "")
        told = f"it goes behind the command, as in npgan {home} {flag}" if home else _nearest(flag, parser.flags())
        parser.error(f"there is no flag {flag} here: {told or 'see npgan --help'}")
    if place == len(words):
        if not set(words) & set(parser.flags()):
            parser.error(f"a command is missing: {', '.join(commands)}; npgan --help says what they do")
        return
    name, *rest = words[place:]
    if name not in commands:
        parser.error(f"there is no command {name}: {_nearest(name, commands) or 'there are ' + ', '.join(commands)}")
    command = commands[name]
    for flag in _unknown_flags(command, rest):
        command.error(f"there is no flag {flag}: {_nearest(flag, command.flags()) or f'see {command.prog} --help'}")


def _unknown_flags(parser: _Parser, words: Sequence[str]) -> Iterator[str]:
    """Those among ``words``, up to a bare "--", which says that no flags come after it."""
    for word in takewhile(lambda word: word != "--", words):
        flag = word.partition("=")[0]
        if re.match("--?[A-Za-z]", flag) and flag not in parser.flags():  # -1 is a number
            yield flag


def _nearest(word: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _complain(command: str, problem: object, status: int) -> int:
    name, line = f"npgan {command}".strip(), " ".join(str(problem).split())
    with suppress(OSError, ValueError):  # that nobody can read it changes no exit status
        print(f"{name}: error: {one_line(line)}", file=sys.stderr)
    return status


def _threads_of_a_rank(same_bytes: bool) -> int | None:
    """The cores are divided among the ranks of this machine; with BLAS the number of threads has a say in the bytes."""
    if same_bytes:
        return 1
    here = launched_here()
    return None if here == 1 else max(1, blas.available_cores() // here)


def _train(values: dict[str, Any]) -> int:
    """On one rank of several: the first one leads, and what the others do is a part of its run."""
    compute = Compute(
        values["backend_name"], values["precision"], values["kernels"], values["blas"], ranks_of_this_run(),
        values["same_bytes"],
    )  # fmt: skip
    if compute.ranks.rank:
        return _follow(compute)
    if compute.ranks.size == 1:
        return _lead(values, compute)
    try:
        return _lead(values, compute)
    except BaseException as error:
        if compute.ranks.together:  # told here: the others are ended in a moment, and this rank with them
            _complain("train", error, EXIT_FAILURE)
        raise
    finally:
        from npgan.engines.mpi import let_go

        let_go(compute.ranks)


def _follow(compute: Compute) -> int:
    from npgan.engines import follow

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):  # the first rank saves, and lets go
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    import numpy as np

    try:
        with np.errstate(all="ignore"):  # the first rank tells of what is not finite
            follow(compute)
    except Exception as error:
        _complain("train", f"rank {compute.ranks.rank}: {error or type(error).__name__}", EXIT_FAILURE)
        compute.ranks.abort(EXIT_FAILURE)
    return EXIT_OK


def _lead(values: dict[str, Any], compute: Compute) -> int:
    from npgan.runs.folder import Keeping
    from npgan.runs.train import DataChoice, FolderChoice, Request, train

    names = [each.name for each in _config_fields()]
    request = Request(
        config=PRESETS.get(values["preset"], {}) | {name: values[name] for name in names if name in values},
        data=DataChoice(values["dataset"], values["data_dir"]),
        folder=FolderChoice(values["out"], values["resume"], values["overwrite"]),
        compute=compute,
        keeping=Keeping(values["checkpoint_every"], values["keep"]),
        quiet=values["quiet"],
        colormap=values["colormap"],
    )
    return train(request, _observe)


def _sweep(values: dict[str, Any]) -> int:
    from npgan.runs.folder import Keeping
    from npgan.sweep.command import Options, sweep

    given = {name: values.pop(name) for name in (*(each.name for each in _config_fields()), "preset") if name in values}
    keeping = Keeping(values.pop("checkpoint_every"), values.pop("keep"))
    with unfailing_output():  # the results are files
        return sweep(Options(given=given, keeping=keeping, **values))


def _observe(run: RunFolder, *others: Any) -> Observer:
    from npgan.evaluation.callback import FiguresObserver

    return FiguresObserver(run, *others)


_SAMPLE_DEFAULTS = {"count": 64, "seed": 0, "out": None}  # not argparse's: --animate refuses given ones


def _sample(values: dict[str, Any]) -> int:
    from npgan.console import say
    from npgan.runs.sample import animate, generate

    if not values.pop("animated"):
        if "colormap" in values:
            raise InputError("--colormap colors an animation: it needs --animate")
        with unfailing_output():  # the result is a file
            say(generate(**{**_SAMPLE_DEFAULTS, **values}))
        return EXIT_OK
    given = {"--n": "count" in values, "--seed": "seed" in values, "--interpolate": values["interpolate"]}
    if flags := [flag for flag, is_given in given.items() if is_given]:
        raise InputError(f"--animate shows what training has drawn: it cannot take {' and '.join(flags)}")
    with unfailing_output():
        say(animate(values["run_path"], values.get("out"), values.get("colormap", COLORMAP)))
    return EXIT_OK


def _gradcheck(values: dict[str, Any]) -> int:
    from npgan.gradcheck.command import gradcheck

    return gradcheck(**values)


def _evaluate(values: dict[str, Any]) -> int:
    from npgan.evaluation.command import evaluate

    with unfailing_output():  # the result is a file
        return evaluate(**values)


def _inspect(values: dict[str, Any]) -> int:
    from npgan.inspector.command import NewRun, inspect

    new = NewRun(*(values.pop(name) for name in NewRun._fields))
    with unfailing_output() if values["html"] else nullcontext():
        return inspect(**values, new=new)


def _bench(values: dict[str, Any]) -> int:
    from npgan.bench.command import Options, bench

    setup = values.pop("blas")
    with unfailing_output() if values["json_path"] else nullcontext():
        return bench(Options(**values), setup)


def _play(values: dict[str, Any]) -> int:
    from npgan.play.command import play

    return play(**values)


def _puzzle(values: dict[str, Any]) -> int:
    from npgan.puzzles.command import puzzle

    return puzzle(**values)


_COMMANDS = {
    "train": _train,
    "sweep": _sweep,
    "sample": _sample,
    "gradcheck": _gradcheck,
    "evaluate": _evaluate,
    "inspect": _inspect,
    "bench": _bench,
    "play": _play,
    "puzzle": _puzzle,
}
_SHOW_BLAS = ("train", "bench")  # commands that say how NumPy's matmuls were set up


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of the whole line, and those of the commands by name."""
    parser = _Parser(
        prog="npgan", description="A GAN for MNIST with every backward pass written by hand.",
        epilog=_example("npgan train --epochs 5", "npgan COMMAND --help"),
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"npgan {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_train(commands)
    _add_sweep(commands)
    _add_sample(commands)
    _add_evaluate(commands)
    _add_gradcheck(commands)
    _add_inspect(commands)
    _add_bench(commands)
    _add_play(commands)
    _add_puzzle(commands)
    return parser, dict(commands.choices)


def _add_command(commands: Any, name: str, summary: str, description: str, *examples: str) -> Any:
    """``summary``: for the list of commands. ``examples``: whole lines, for the end of the help."""
    width = max(shutil.get_terminal_size().columns - 2, 30)
    return commands.add_parser(
        name, help=summary, description=textwrap.fill(description, width), epilog=_example(*examples)
    )


def _example(*lines: str) -> str:
    return "\n  ".join(["examples:" if len(lines) > 1 else "example:", *lines])


def _add_train(commands: Any) -> None:
    parser = _add_command(
        commands, "train", "train the GAN", "Train the GAN.",
        "npgan train --epochs 20 --out runs/first", "npgan train --resume runs/first --epochs 40",
    )  # fmt: skip
    where = parser.add_argument_group("where it runs and where its files are")
    _add_backend(where, "auto takes a working GPU, else NumPy, and says why (default: %(default)s)")
    _add_data(where)
    where.add_argument("--out", type=_path, metavar="DIR", help="run folder (default: runs/<dataset>-<date>-<time>)")
    where.add_argument("--overwrite", action="store_true", help="replace the run that --out holds already")
    where.add_argument(
        "--resume", nargs="?", type=_path, const=True, default=False, metavar="RUN",
        help="resume RUN, or the run in runs/ that trained last",
    )  # fmt: skip
    _add_keeping(where)
    where.add_argument("--precision", choices=("fp32", "tf32"), help="of matmuls on a GPU (default: fp32)")
    _add_kernels(where)
    where.add_argument(
        "--same-bytes", action="store_true",
        help="of a run on several workers (mpiexec -n INT npgan train …): whatever their number, up to 8",
    )  # fmt: skip
    _add_blas(where)
    where.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    _add_colormap(where, COLORMAP, "of the samples in the terminal and of training.gif")
    what = parser.add_argument_group("what is trained (the defaults are the Flux tutorial's)")
    what.add_argument(
        "--preset", choices=tuple(PRESETS), help=f"the flags of a recipe: {'; '.join(map(preset_flags, PRESETS))}"
    )
    _add_hyperparameters(what)


def _add_sweep(commands: Any) -> None:
    parser = _add_command(
        commands, "sweep", "train many settings with many seeds",
        "Train every setting with every seed, on this machine's cores or on the workers of a Dask scheduler, and report how "
        "many live (pip install 'npgan[sweep]'). The same command again does what is missing.",
        "npgan sweep --seeds 0-9 --set loss=bce,bce-logits --set beta1=0.9,0.5 --epochs 20",
        "npgan sweep plan.toml --scheduler tcp://host:8786",
    )  # fmt: skip
    grid = parser.add_argument_group("what is run: every setting with every seed")
    grid.add_argument(
        "file", type=_path, nargs="?", metavar="FILE", help="a plan in TOML; flags go before what it says"
    )
    grid.add_argument("--seeds", metavar="LIST", help="such as 0-9,12")
    grid.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="FIELD=VALUE,...",
        help="a flag of train, without its dashes, and the values to try; several times for a grid",
    )  # fmt: skip
    where = parser.add_argument_group("where it runs and where its files are")
    where.add_argument("--out", type=_path, metavar="DIR", help="folder of all runs (default: runs/FILE or runs/sweep)")
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="of Dask, such as tcp://host:8786 (default: this machine)"
    )
    where.add_argument("--workers", type=int, metavar="INT", help="on this machine (default: one a core)")
    where.add_argument(
        "--threads", type=int, metavar="INT",
        help="of a run (default: the cores divided among the workers; with --scheduler 1)",
    )  # fmt: skip
    _add_data(where)
    _add_keeping(where)
    _add_backend(where, "of the runs (default: %(default)s)", dest="backend")
    _add_kernels(where)
    where.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    what = parser.add_argument_group("what every run has (the defaults are the Flux tutorial's)")
    what.add_argument("--preset", choices=tuple(PRESETS), default=argparse.SUPPRESS, help="the flags of a recipe")
    _add_hyperparameters(what, but=("seed",))


def _add_data(group: Any) -> None:
    group.add_argument(
        "--dataset", choices=("auto", "mnist", "digits"), default="auto",
        help="auto is MNIST from disk, else downloaded, else the embedded digits (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--data-dir", type=_path, metavar="DIR", help="folder with the MNIST IDX files, gzipped or not")


def _add_keeping(group: Any) -> None:
    group.add_argument(
        "--checkpoint-every", type=int, metavar="EPOCHS",
        help="besides milestones and the end (default: at the first epoch's end after a minute)",
    )  # fmt: skip
    group.add_argument(
        "--keep", type=int, metavar="INT",
        help="how many of the last checkpoints stay, 35 MB each, besides milestones: one every 100 epochs, or every "
        "--output-period, at most 20 (default: 3)",
    )  # fmt: skip


def _add_kernels(group: Any) -> None:
    group.add_argument(
        "--kernels", choices=KERNELS, default="auto",
        help="reference is the textbook as it stands, fused needs numba; auto takes fused where it can (default: %(default)s)",
    )  # fmt: skip


def _add_hyperparameters(group: Any, but: Collection[str] = ()) -> None:
    for each in (each for each in _config_fields() if each.name not in but):
        flag = each.metadata["flag"]
        more = (
            {"action": "store_true"}
            if flag.kind is bool
            else {"type": flag.kind, "metavar": flag.kind.__name__.upper()}
        )
        if flag.choices:
            more = {"choices": flag.choices}
        group.add_argument(
            flag_name(each.name), default=argparse.SUPPRESS, help=f"{flag.help} (default: {_default(each)})", **more
        )


def _config_fields() -> list[Field[Any]]:
    """The fields of TrainConfig that are flags of their own: ``--dataset`` may also be auto, and is declared here."""
    return [each for each in fields(TrainConfig) if each.name != "dataset"]


def _default(each: Field[Any]) -> str:
    return "off" if each.default is False else shown_value(each.name, each.default)


def flag_table() -> str:
    """The flags that are hyper-parameters as a table in Markdown, for docs/training.md."""
    rows = ["| flag | default | what it is | what it may be |", "| --- | --- | --- | --- |"]
    for each in _config_fields():
        flag = each.metadata["flag"]
        rows.append(f"| `{flag_name(each.name)}` | {_default(each)} | {flag.help} | {flag.bounds} |")
    return "\n".join(rows) + "\n"


def preset_flags(name: str) -> str:
    """A preset written out, such as "r3gan is --loss relativistic --r1 1.0 …"."""
    return f"{name} is {' '.join(f'{flag_name(each)} {value}' for each, value in PRESETS[name].items())}"


def _add_backend(group: Any, text: str, dest: str = "backend_name") -> None:
    group.add_argument("--backend", dest=dest, choices=("auto", "numpy", "cupy"), default="auto", help=text)


def _add_blas(group: Any) -> None:
    group.add_argument("--threads", type=int, metavar="INT", help="on a CPU (default: the cores the process may use)")
    group.add_argument(
        "--blas-core", default="auto", metavar="CORE",
        help="auto: npgan's own GEMM on x86 with AVX2 or AVX-512, else BLAS; default: BLAS as it is; "
        "or BLAS with one of OpenBLAS's cores (default: %(default)s)",
    )  # fmt: skip


def _add_colormap(group: Any, default: str, text: str) -> None:
    group.add_argument(
        "--colormap", choices=COLORMAPS, default=default, metavar="NAME",
        help=f"{text}: %(choices)s (default: {COLORMAP}, as in the tutorial)",
    )  # fmt: skip


def _add_sample(commands: Any) -> None:
    parser = _add_command(
        commands, "sample", "draw images from a trained run", "Draw images from a run's latest checkpoint.",
        "npgan sample runs/first --n 100 --out digits.png",
    )  # fmt: skip
    parser.add_argument("run_path", type=_path, metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument(
        "--n", dest="count", type=int, default=argparse.SUPPRESS,
        help=f"how many (default: {_SAMPLE_DEFAULTS['count']})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=_path, default=argparse.SUPPRESS,
        help="a grid as .png, or float32 (N, 28, 28) in [-1, 1] as .npy "
        "(default: samples.png, or samples-2.png and so on where that exists); with --animate a .gif "
        "(default: samples/training.gif of the run)",
    )  # fmt: skip
    _add_colormap(parser, argparse.SUPPRESS, "of the animation")
    parser.add_argument("--interpolate", action="store_true", help="each row of 8 walks from one sample to another")
    parser.add_argument(
        "--animate", dest="animated", action="store_true",
        help="instead: the pictures in samples/ that training left, one after another, with their epochs",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=argparse.SUPPRESS, help=f"of the noise (default: {_SAMPLE_DEFAULTS['seed']})"
    )
    _add_backend(parser, "(default: %(default)s)")


def _add_gradcheck(commands: Any) -> None:
    parser = _add_command(
        commands, "gradcheck", "prove every backward pass against its forward",
        "Compare every hand-written backward, and the training step, with numerical derivatives. "
        "Exit status: 0 all right, 1 a gradient is wrong.",
        "npgan gradcheck", "npgan gradcheck --gallery",
    )  # fmt: skip
    parser.add_argument(
        "--gallery", action="store_true", help="plant known bugs, one by one, and show each being caught"
    )
    parser.add_argument("--verbose", action="store_true", help="a line for every tensor")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON, with every number, instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: %(default)s)")
    _add_backend(parser, "(default: %(default)s)")


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(
        commands, "evaluate", "put numbers on a trained run",
        "Measure samples of a run's latest checkpoint beside real images, k-means centers, an untrained generator "
        "and noise. Writes evaluation.json and evaluation.png into the run.",
        "npgan evaluate runs/first",
    )  # fmt: skip
    parser.add_argument("run_path", type=_path, metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument(
        "--data-dir",
        type=_path,
        metavar="DIR",
        help="folder with the MNIST IDX files (default: the one the run recorded)",
    )
    parser.add_argument(
        "--n", type=int, default=10_000, help="images in each set; published figures take 10,000 (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="draw every set so many times and show the spread (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first draw (default: %(default)s)")
    _add_backend(parser, "(default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")


def _add_inspect(commands: Any) -> None:
    parser = _add_command(
        commands, "inspect", "take one training step apart",
        "Take one training step apart: every operation with its formula, code, numbers, and the proof that its "
        "gradient is right. Prints a screen of it, unless a flag asks for more. Without RUN the first step of a new run. "
        "Nothing of a run is changed.",
        "npgan inspect", "npgan inspect runs/first --html step.html", "npgan inspect --only D.3",
    )  # fmt: skip
    parser.add_argument("run_path", type=_path, nargs="?", metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument(
        "--step",
        type=int,
        metavar="INT",
        help="the checkpoint to start from (default: the latest); of a new run: iterations before",
    )
    parser.add_argument("--compare", metavar="OTHER", help="a second run, or another step of RUN or of the new run")
    parser.add_argument("--toy", action="store_true", help="instead: a 3-4-2 network, every number worked out")
    parser.add_argument("--html", type=_path, metavar="FILE", help="write a page with everything, too")
    parser.add_argument("--full", action="store_true", help="every operation in full, and RUN over time")
    parser.add_argument("--summary", action="store_true", help="a line for each operation, and RUN over time")
    parser.add_argument("--only", metavar="LAYER", help="one layer in full, such as D.3")
    parser.add_argument(
        "--dataset",
        choices=("auto", "mnist", "digits"),
        default="auto",
        help="of a new run (default: %(default)s, as in train)",
    )
    parser.add_argument("--data-dir", type=_path, metavar="DIR", help="folder with the MNIST IDX files")
    parser.add_argument("--seed", type=int, default=0, help="of a new run (default: %(default)s)")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="of a new run (default: the tutorial's settings)")


def _add_bench(commands: Any) -> None:
    parser = _add_command(
        commands, "bench", "time npgan, PyTorch and JAX side by side",
        "Milliseconds per iteration of npgan and its baselines (pip install 'npgan[bench]'), measured in turns.",
        "npgan bench --only 'npgan fused,npgan reference'",
    )  # fmt: skip
    parser.add_argument(
        "--batch-sizes", type=_integers, default=[128], metavar="INT,...", help="one table for each (default: 128)"
    )
    parser.add_argument(
        "--backend",
        choices=("numpy", "cupy"),
        default="numpy",
        help="cupy: npgan and its baselines on a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--precisions", type=_names, default=argparse.SUPPRESS, metavar="NAME,...",
        help="of matmuls on a GPU, one table for each (default: fp32,tf32)",
    )  # fmt: skip
    parser.add_argument(
        "--busy", type=int, default=0, metavar="N", help="beside N processes that compute all the time (default: 0)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of every candidate (default: %(default)s)")
    parser.add_argument(
        "--calls", type=int, help="calls of it in a turn (default: 10; on a GPU 3, most of an epoch each)"
    )
    parser.add_argument(
        "--patience", type=float, default=120.0, metavar="SECONDS",
        help="that a candidate may take to get ready; what the ones before it did not need is added (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=_names, default=argparse.SUPPRESS, metavar="NAME,...",
        help="some candidates, such as 'npgan fused,jax step'; a wrong name lists them all",
    )  # fmt: skip
    parser.add_argument("--json", dest="json_path", type=_path, metavar="FILE", help="write every time there, too")
    parser.add_argument(
        "--profile", action="store_true", help="instead: npgan's time per operation or kernel, at the first batch size"
    )
    _add_blas(parser)


def _add_play(commands: Any) -> None:
    parser = _add_command(
        commands, "play", "watch a GAN learn in the browser",
        "Serve a page on this machine alone in which a GAN learns, step by step (pip install 'npgan[play]'). "
        "With RUN also that run's digits, while it trains or afterwards.",
        "npgan play", "npgan play runs/first",
    )  # fmt: skip
    parser.add_argument("run_path", type=_path, nargs="?", metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument("--port", type=int, default=0, metavar="INT", help="0 is a free one (default: %(default)s)")
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address and open no browser"
    )


def _add_puzzle(commands: Any) -> None:
    parser = _add_command(
        commands, "puzzle", "mend a broken backward pass",
        "Each bug of the gradient checker's gallery as a puzzle: a function of npgan with a slip in it. Without PUZZLE the "
        "list; with one it is shown and written to a file. Exit status of a check: 0 solved, 1 still wrong.",
        "npgan puzzle", "npgan puzzle 2", "npgan puzzle 2 --check", "npgan puzzle dense_backward_dx --edit",
    )  # fmt: skip
    parser.add_argument("word", nargs="?", metavar="PUZZLE", help="its number or its name in the list")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", nargs="?", type=_path, const=True, metavar="FILE",
        help="run the gradient checks with the function in FILE in place (default: puzzle-N.py, as written)",
    )  # fmt: skip
    action.add_argument("--edit", action="store_true", help="open puzzle-N.py in $VISUAL or $EDITOR, then check it")
    action.add_argument(
        "--hint", nargs="?", type=int, const=1, metavar="INT", help="1 says what is wrong, 2 also where"
    )
    action.add_argument("--solution", action="store_true", help="show the textbook's own function")


def _path(text: str) -> Path:
    """Raises argparse's error for what no file can be called. Empty text would mean the current folder, and comes of a variable
    that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty: is a variable not set?")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} holds letters that no file name has here") from None
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} holds a NUL")
    return Path(text)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
