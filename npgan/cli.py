"""The command line: ``npgan train``, ``npgan sample``. Nothing heavy is imported before a command has its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from npgan.config import LOSSES, TrainConfig
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
    print(f"npgan {command}: error: {' '.join(str(problem).split())}", file=sys.stderr)
    return status


def _train(values: dict[str, Any]) -> int:
    from npgan.run import train

    fields = {name for name, _, _ in _CONFIG_FLAGS} | {"loss", "dropout_in_g_step"}
    config_flags = {name: values.pop(name) for name in fields & set(values)}
    return train(config_flags, **values)


def _sample(values: dict[str, Any]) -> int:
    from npgan.run import generate

    print(generate(**values))
    return EXIT_OK


_COMMANDS = {"train": _train, "sample": _sample}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="npgan", description="A GAN for MNIST with every backward pass written by hand.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_train(commands)
    _add_sample(commands)
    return parser


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train the GAN", description="Train the GAN.", allow_abbrev=False)
    where = parser.add_argument_group("where it runs and where its files are")
    where.add_argument(
        "--backend", dest="backend_name", choices=("auto", "numpy", "cupy"), default="auto",
        help="auto takes a working GPU, else NumPy, and says why (default: auto)",
    )  # fmt: skip
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
        "--precision", choices=("fp32", "tf32"), default="fp32", help="matrix products on a GPU (default: fp32)"
    )
    where.add_argument(
        "--kernels", choices=("auto", "reference", "fused"), default="auto",
        help="reference is the plain maths of ops.py (default: auto)",
    )  # fmt: skip
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
        "--dropout-in-g-step", action="store_true", default=argparse.SUPPRESS,
        help="keep dropout on while the generator learns (default: off, as the tutorial)",
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
    parser.add_argument(
        "--backend", dest="backend_name", choices=("auto", "numpy", "cupy"), default="auto", help="(default: auto)"
    )


if __name__ == "__main__":
    sys.exit(main())
