"""The command line, ``npgan <command>``. Nothing heavy is imported before a command has its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from npgan.config import LOSSES, NETWORKS, OPTIMISERS, PRESETS, TrainConfig
from npgan.engines.cpu import blas
from npgan.errors import InputError

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

# The flags that are fields of TrainConfig: (field, type, help). Their defaults are the config's own.
_CONFIG_FLAGS: list[tuple[str, type, str]] = [
    ("epochs", int, "passes over the training images"),
    ("batch_size", int, "real images in an iteration; as many fakes join them"),
    ("latent_dim", int, "length of the generator's noise vectors"),
    ("lr_g", float, "Adam's learning rate for the generator"),
    ("lr_d", float, "Adam's learning rate for the discriminator"),
    ("beta1", float, "Adam's decay of the first moment (many GANs take 0.5)"),
    ("beta2", float, "Adam's decay of the second moment"),
    ("adam_epsilon", float, "Adam's ε, outside the root"),
    ("leaky_slope", float, "slope of leaky ReLU left of 0"),
    ("dropout", float, "probability that dropout sets an element to 0"),
    ("input_dropout", float, "the same for the pixels, in the networks of paper-2014"),
    ("momentum", float, "SGD's share of the last step that is taken again, at the start"),
    ("momentum_final", float, "what it grows to"),
    ("momentum_steps", int, "over so many iterations"),
    ("lr_decay", float, "SGD's learning rates are divided by this after every iteration"),
    ("label_smoothing", float, "real images get the target 1 minus this"),
    ("output_period", int, "epochs between previews and sample PNGs"),
    ("seed", int, "the same seed and settings give the same run, byte for byte"),
]


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
        products = blas.prepare(values.pop("blas_core", "auto"), values.pop("threads", None))
        if command in _PRODUCTS_SHOWN:
            values["products"] = products
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
    from npgan.runs.train import train

    fields = {name for name, _, _ in _CONFIG_FLAGS} | {"loss", "dropout_in_g_step", "train_images", "eval_every"}
    fields |= {"networks", "optimiser"}
    preset = PRESETS[values.pop("preset")]
    config_flags = preset | {name: values.pop(name) for name in fields & set(values)}
    return train(config_flags, **values)


def _sample(values: dict[str, Any]) -> int:
    from npgan.runs.sample import generate

    print(generate(**values))
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
    from npgan.bench.command import bench

    return bench(**values)


_COMMANDS = {
    "train": _train,
    "sample": _sample,
    "gradcheck": _gradcheck,
    "evaluate": _evaluate,
    "inspect": _inspect,
    "bench": _bench,
    "benchmark": _bench,
}
_PRODUCTS_SHOWN = ("train", "bench", "benchmark")  # commands that say how the matrix products were set up


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
    _add_backend(where, "auto takes a working GPU, else NumPy, and says why (default: auto)")
    where.add_argument(
        "--dataset", choices=("auto", "mnist", "digits"), default="auto",
        help="auto is MNIST from disk, else downloaded, else the embedded digits (default: auto)",
    )  # fmt: skip
    where.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the MNIST IDX files, gzipped or not")
    where.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/<dataset>-<date>-<time>)")
    where.add_argument("--overwrite", action="store_true", help="replace the run that --out holds already")
    where.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="go on with RUN, or with the newest run in runs/"
    )
    where.add_argument(
        "--checkpoint-every", type=int, metavar="EPOCHS",
        help="besides those at previews and at the end (default: at the first epoch's end after a minute)",
    )  # fmt: skip
    where.add_argument(
        "--keep", type=int, metavar="INT",
        help="how many of the last checkpoints stay, 35 MB each; those at previews all do (default: 3)",
    )  # fmt: skip
    where.add_argument("--precision", choices=("fp32", "tf32"), help="matrix products on a GPU (default: fp32)")
    where.add_argument(
        "--kernels", dest="kernels_name", choices=("auto", "reference", "fused"), default="auto",
        help="reference is the plain maths of ops.py, fused needs numba; auto takes fused where it can (default: auto)",
    )  # fmt: skip
    _add_products(where)
    where.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    what = parser.add_argument_group("what is trained (the defaults are the Flux tutorial's)")
    for name, kind, text in _CONFIG_FLAGS:
        flag, default = "--" + name.replace("_", "-"), getattr(TrainConfig, name)
        what.add_argument(
            flag,
            type=kind,
            default=argparse.SUPPRESS,
            metavar=kind.__name__.upper(),
            help=f"{text} (default: {default})",
        )
    what.add_argument(
        "--loss", choices=LOSSES, default=argparse.SUPPRESS,
        help="cross-entropy on probabilities, as the tutorial, or on logits (default: bce)",
    )  # fmt: skip
    what.add_argument(
        "--preset", choices=tuple(PRESETS), default="tutorial",
        help="paper-2014: ReLU generator, maxout discriminator and SGD with momentum, as Goodfellow et al.; flags given "
        "beside it win (default: tutorial)",
    )  # fmt: skip
    what.add_argument(
        "--networks", choices=NETWORKS, default=argparse.SUPPRESS, help="their layers (default: tutorial)"
    )
    what.add_argument(
        "--optimiser", choices=OPTIMISERS, default=argparse.SUPPRESS, help="of both networks (default: adam)"
    )
    what.add_argument(
        "--dropout-in-g-step", action="store_true", default=argparse.SUPPRESS,
        help="keep dropout on while the generator learns (default: off, as the tutorial)",
    )  # fmt: skip
    what.add_argument(
        "--train-images", type=int, default=argparse.SUPPRESS, metavar="INT",
        help="use only the first so many (default: all; 50000 is what published Parzen figures trained on)",
    )  # fmt: skip
    what.add_argument(
        "--eval-every", type=int, default=argparse.SUPPRESS, metavar="INT",
        help="epochs between evaluations of 10,000 samples: figures, and their curves as a PNG (default: never)",
    )  # fmt: skip


def _add_backend(group: Any, text: str) -> None:
    group.add_argument("--backend", dest="backend_name", choices=("auto", "numpy", "cupy"), default="auto", help=text)


def _add_products(group: Any) -> None:
    group.add_argument("--threads", type=int, metavar="INT", help="on a CPU (default: the cores the process may use)")
    group.add_argument(
        "--blas-core", default="auto", metavar="CORE",
        help="auto: npgan's own matrix products where the processor has AVX-512, else BLAS; default: BLAS as it is; "
        "or BLAS with one of OpenBLAS's cores (default: auto)",
    )  # fmt: skip


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser(
        "sample", help="draw images from a trained run", description="Draw images from a run's latest checkpoint.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run_path", type=Path, metavar="RUN", help="a run folder, such as runs/mnist-…")
    parser.add_argument("--n", dest="count", type=int, default=64, help="how many (default: 64)")
    parser.add_argument(
        "--out", type=Path, default=Path("samples.png"),
        help="a grid as .png, or float32 (N, 28, 28) in [-1, 1] as .npy (default: samples.png)",
    )  # fmt: skip
    parser.add_argument("--interpolate", action="store_true", help="each row of 8 walks from one sample to another")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    _add_backend(parser, "(default: auto)")


def _add_gradcheck(commands: Any) -> None:
    parser = commands.add_parser(
        "gradcheck", help="prove every backward pass against its forward",
        description="Compare every hand-written backward, and both training steps, with numerical derivatives. "
        "Exit status: 0 all right, 1 a gradient is wrong.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--gallery", action="store_true", help="plant known bugs, one by one, and show each being caught"
    )
    parser.add_argument("--verbose", action="store_true", help="a line for every tensor")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON, with every number, instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    _add_backend(parser, "(default: auto)")


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate", help="put numbers on a trained run",
        description="Measure samples of a run's latest checkpoint beside real images, k-means centres, an untrained generator "
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
        "--n", type=int, default=10_000, help="images in each set; published figures take 10,000 (default: 10000)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="draw every set so many times and show the spread (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first draw (default: 0)")
    _add_backend(parser, "(default: auto)")
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
        help="of a new run (default: auto, as in train)",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the MNIST IDX files")
    parser.add_argument("--seed", type=int, default=0, help="of a new run (default: 0)")


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", aliases=["benchmark"], help="time npgan, PyTorch and JAX side by side",
        description="Milliseconds per iteration of npgan and its peers (pip install 'npgan[bench]'), measured in turns.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--batch-sizes", type=_integers, default=[128], metavar="INT,...", help="one table for each (default: 128)"
    )
    parser.add_argument(
        "--backend",
        choices=("numpy", "cupy"),
        default="numpy",
        help="cupy: npgan and its peers on a GPU (default: numpy)",
    )
    parser.add_argument(
        "--precisions",
        type=_names,
        metavar="NAME,...",
        help="of products on a GPU, one table for each (default: fp32,tf32)",
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of every contestant (default: 15)")
    parser.add_argument(
        "--calls", type=int, help="calls of it in a turn (default: 10; on a GPU 3, most of an epoch each)"
    )
    parser.add_argument(
        "--patience", type=float, default=300.0, metavar="SECONDS",
        help="leave out a contestant that is not ready by then (default: 300)",
    )  # fmt: skip
    parser.add_argument(
        "--patience-in-all", type=float, metavar="SECONDS", help="the same for all contestants of a table together"
    )
    parser.add_argument(
        "--only", type=_names, metavar="NAME,...", help="some contestants, such as 'npgan fused,jax step'"
    )
    parser.add_argument("--json", dest="json_path", type=Path, metavar="FILE", help="write every time there, too")
    parser.add_argument(
        "--profile", action="store_true", help="instead: npgan's time per operation or kernel, at the first batch size"
    )
    _add_products(parser)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
