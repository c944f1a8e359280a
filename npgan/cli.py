"""The command line, ``npgan <command>``. Nothing heavy is imported before a command has its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from npgan.config import TrainConfig, flag_name, shown_value
from npgan.engines import KERNELS, Compute
from npgan.engines.cpu import blas
from npgan.errors import InputError
from npgan.runs.colormaps import COLORMAPS

if TYPE_CHECKING:
    from npgan.runs.folder import RunFolder
    from npgan.runs.train import Observer

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status: 0 done, 1 failed, 2 the user's mistake, 128 + n stopped by signal n."""
    options = _parser().parse_args(arguments)
    values = vars(options)
    command = values.pop("command")
    try:
        # NumPy is not imported yet: it will read this when it is
        setup = blas.prepare(values.pop("blas_core", "auto"), values.pop("threads", None))
        if command in _SHOW_BLAS:
            values["blas"] = setup
        return int(_COMMANDS[command](values))
    except InputError as error:
        return _complain(command, error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _complain(command, "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output is gone; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except (OSError, MemoryError, RuntimeError) as error:
        return _complain(command, str(error) or type(error).__name__, EXIT_FAILURE)


def _complain(command: str, problem: object, status: int) -> int:
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(problem).split()))
    print(f"npgan {command}: error: {line}", file=sys.stderr)  # no escape codes from a damaged file reach the terminal
    return status


def _train(values: dict[str, Any]) -> int:
    from npgan.runs.folder import Keeping
    from npgan.runs.train import DataChoice, FolderChoice, Request, train

    request = Request(
        config={each.name: values[each.name] for each in _config_fields() if each.name in values},
        data=DataChoice(values["dataset"], values["data_dir"]),
        folder=FolderChoice(values["out"], values["resume"], values["overwrite"]),
        compute=Compute(values["backend_name"], values["precision"], values["kernels"], values["blas"]),
        keeping=Keeping(values["checkpoint_every"], values["keep"]),
        quiet=values["quiet"],
        colormap=values["colormap"],
    )
    return train(request, _observe)


def _observe(run: RunFolder, *others: Any) -> Observer:
    from npgan.evaluation.callback import FiguresObserver

    return FiguresObserver(run, *others)


_SAMPLE_DEFAULTS = {"count": 64, "seed": 0, "out": Path("samples.png")}  # not argparse's: --animate refuses given ones


def _sample(values: dict[str, Any]) -> int:
    from npgan.runs.sample import animate, generate

    if not values.pop("animated"):
        print(generate(**{**_SAMPLE_DEFAULTS, **values}))
        return EXIT_OK
    given = {"--n": "count" in values, "--seed": "seed" in values, "--interpolate": values["interpolate"]}
    if flags := [flag for flag, is_given in given.items() if is_given]:
        raise InputError(f"--animate shows what training has drawn: it cannot take {' and '.join(flags)}")
    print(animate(values["run_path"], values.get("out")))
    return EXIT_OK


def _gradcheck(values: dict[str, Any]) -> int:
    from npgan.gradcheck.command import gradcheck

    return gradcheck(**values)


def _evaluate(values: dict[str, Any]) -> int:
    from npgan.evaluation.command import evaluate

    return evaluate(**values)


def _inspect(values: dict[str, Any]) -> int:
    from npgan.inspector.command import inspect

    return inspect(**values)


def _bench(values: dict[str, Any]) -> int:
    from npgan.bench.command import Options, bench

    setup = values.pop("blas")
    return bench(Options(**values), setup)


_COMMANDS = {
    "train": _train,
    "sample": _sample,
    "gradcheck": _gradcheck,
    "evaluate": _evaluate,
    "inspect": _inspect,
    "bench": _bench,
}
_SHOW_BLAS = ("train", "bench")  # commands that say how NumPy's matmuls were set up


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="npgan", description="A GAN for MNIST with every backward pass written by hand.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_train(commands)
    _add_sample(commands)
    _add_evaluate(commands)
    _add_gradcheck(commands)
    _add_inspect(commands)
    _add_bench(commands)
    return parser


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train the GAN", description="Train the GAN.", allow_abbrev=False)
    where = parser.add_argument_group("where it runs and where its files are")
    _add_backend(where, "auto takes a working GPU, else NumPy, and says why (default: %(default)s)")
    where.add_argument(
        "--dataset", choices=("auto", "mnist", "digits"), default="auto",
        help="auto is MNIST from disk, else downloaded, else the embedded digits (default: %(default)s)",
    )  # fmt: skip
    where.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the MNIST IDX files, gzipped or not")
    where.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/<dataset>-<date>-<time>)")
    where.add_argument("--overwrite", action="store_true", help="replace the run that --out holds already")
    where.add_argument("--resume", nargs="?", const="", metavar="RUN", help="resume RUN, or the newest run in runs/")
    where.add_argument(
        "--checkpoint-every", type=int, metavar="EPOCHS",
        help="besides milestones and the end (default: at the first epoch's end after a minute)",
    )  # fmt: skip
    where.add_argument(
        "--keep", type=int, metavar="INT",
        help="how many of the last checkpoints stay, 35 MB each, besides milestones: one every 100 epochs, or every "
        "--output-period (default: 3)",
    )  # fmt: skip
    where.add_argument("--precision", choices=("fp32", "tf32"), help="of matmuls on a GPU (default: fp32)")
    where.add_argument(
        "--kernels", choices=KERNELS, default="auto",
        help="reference is the textbook as it stands, fused needs numba; auto takes fused where it can (default: %(default)s)",
    )  # fmt: skip
    _add_blas(where)
    where.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    where.add_argument(
        "--colormap", choices=COLORMAPS, default="inferno",
        help="of the samples in the terminal (default: %(default)s, as in the tutorial)",
    )  # fmt: skip
    what = parser.add_argument_group("what is trained (the defaults are the Flux tutorial's)")
    for each in _config_fields():
        flag = each.metadata["flag"]
        more = (
            {"action": "store_true"}
            if flag.kind is bool
            else {"type": flag.kind, "metavar": flag.kind.__name__.upper()}
        )
        if flag.choices:
            more = {"choices": flag.choices}
        what.add_argument(
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


def _add_backend(group: Any, text: str) -> None:
    group.add_argument("--backend", dest="backend_name", choices=("auto", "numpy", "cupy"), default="auto", help=text)


def _add_blas(group: Any) -> None:
    group.add_argument("--threads", type=int, metavar="INT", help="on a CPU (default: the cores the process may use)")
    group.add_argument(
        "--blas-core", default="auto", metavar="CORE",
        help="auto: npgan's own GEMM where the processor has AVX-512, else BLAS; default: BLAS as it is; "
        "or BLAS with one of OpenBLAS's cores (default: %(default)s)",
    )  # fmt: skip


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser(
        "sample", help="draw images from a trained run", description="Draw images from a run's latest checkpoint.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run_path", type=Path, metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument(
        "--n", dest="count", type=int, default=argparse.SUPPRESS,
        help=f"how many (default: {_SAMPLE_DEFAULTS['count']})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS,
        help="a grid as .png, or float32 (N, 28, 28) in [-1, 1] as .npy "
        f"(default: {_SAMPLE_DEFAULTS['out']}); with --animate a .gif (default: samples/training.gif of the run)",
    )  # fmt: skip
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
    parser = commands.add_parser(
        "gradcheck", help="prove every backward pass against its forward",
        description="Compare every hand-written backward, and the training step, with numerical derivatives. "
        "Exit status: 0 all right, 1 a gradient is wrong.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--gallery", action="store_true", help="plant known bugs, one by one, and show each being caught"
    )
    parser.add_argument("--verbose", action="store_true", help="a line for every tensor")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON, with every number, instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: %(default)s)")
    _add_backend(parser, "(default: %(default)s)")


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate", help="put numbers on a trained run",
        description="Measure samples of a run's latest checkpoint beside real images, k-means centers, an untrained generator "
        "and noise. Writes evaluation.json and evaluation.png into the run.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run_path", type=Path, metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument(
        "--data-dir",
        type=Path,
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
    parser = commands.add_parser(
        "inspect", help="take one training step apart",
        description="Take one training step apart: every operation with its formula, code, numbers, and the proof that its "
        "gradient is right. Without RUN the first step of a new run. Nothing of a run is changed.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run_path", type=Path, nargs="?", metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument("--step", type=int, metavar="INT", help="the checkpoint to start from (default: the latest)")
    parser.add_argument("--compare", metavar="OTHER", help="a second run, or the step of another checkpoint of RUN")
    parser.add_argument("--toy", action="store_true", help="instead: a 3-4-2 network, every number worked out")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with everything, too")
    parser.add_argument("--summary", action="store_true", help="a line for each operation")
    parser.add_argument("--only", metavar="LAYER", help="one layer in full, such as D.3")
    parser.add_argument(
        "--dataset",
        choices=("auto", "mnist", "digits"),
        default="auto",
        help="of a new run (default: %(default)s, as in train)",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the MNIST IDX files")
    parser.add_argument("--seed", type=int, default=0, help="of a new run (default: %(default)s)")


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", help="time npgan, PyTorch and JAX side by side",
        description="Milliseconds per iteration of npgan and its baselines (pip install 'npgan[bench]'), measured in turns.",
        allow_abbrev=False,
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
    parser.add_argument("--json", dest="json_path", type=Path, metavar="FILE", help="write every time there, too")
    parser.add_argument(
        "--profile", action="store_true", help="instead: npgan's time per operation or kernel, at the first batch size"
    )
    _add_blas(parser)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
