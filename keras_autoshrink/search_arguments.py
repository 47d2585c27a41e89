"""The arguments of `autoshrink search`."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_autoshrink.argument_types import address, count, positive, rate
from keras_autoshrink.score import COSTS
from keras_autoshrink.shared_arguments import (
    add_data,
    add_seed,
    add_task,
    add_text,
)
from keras_autoshrink.strategies import STRATEGIES


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add_task(parser, "a cell of convolutions, or a recurrent one of a language model")
    images = add_data(parser, "digits")
    text = add_text(parser, "all that occur")
    add_seed(parser)
    images.add_argument(
        "--proxy-images",
        type=positive,
        nargs=2,
        metavar=("TRAIN", "VALIDATION"),
        help="how many images to train candidates on, and to score them on, as many of each class "
        "(default: all; of cifar10 5000 1000)",
    )
    parser.add_argument("--directory", type=Path, default=Path("runs"), help="folder of searches")
    parser.add_argument("--project-name", help="this search's folder; by default the data set's")
    parser.add_argument("--overwrite", action="store_true", help="delete the search in it")
    parser.add_argument(
        "--nodes",
        type=positive,
        help="nodes of the complete cell, its input included (default: 8; of texts 6)",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="bayesian",
        help="'bayesian' tries any parts of the complete cell, those that are likely to score best "
        "by all scores so far; 'paper' cells that lack one edge of the current one; for as many "
        "trained networks the first finds better ones (default: bayesian)",
    )
    parser.add_argument(
        "--candidates", type=positive, default=10, help="cells tried in a round (default: 10)"
    )
    parser.add_argument(
        "--max-candidates",
        type=positive,
        metavar="N",
        help="how many networks 'bayesian' trains (default: as many as 'paper' would at most)",
    )
    parser.add_argument(
        "--keep-fraction",
        type=float,
        default=0.01,
        help="share of the edges at which 'paper' stops; 'bayesian' tries no smaller cells "
        "(default: 0.01)",
    )
    parser.add_argument(
        "--epochs", type=positive, help="most epochs of a candidate (default: 20; of texts 10)"
    )
    images.add_argument("--filters", type=positive, help="filters of the first stage (default: 16)")
    images.add_argument("--stem-filters", type=positive, help="filters of the stem (default: 32)")
    text.add_argument("--units", type=positive, help="size of the state (default: 100)")
    text.add_argument("--steps", type=positive, help="tokens in a window (default: 35)")
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=128,
        help="images, or windows of text, in a step (default: 128)",
    )
    parser.add_argument(
        "--learning-rate", type=rate, help="of Adam (default: 0.004), of texts SGD (default: 20)"
    )
    parser.add_argument(
        "--cost",
        choices=COSTS,
        default="macs",
        help="what the score holds accuracy or perplexity against: multiply-accumulates, "
        "parameters, or the time of the candidate's .tflite file with LiteRT on one thread of this "
        "machine (default: macs)",
    )
    parser.add_argument(
        "--max-macs", type=count, metavar="N", help="train no candidate of more MACs, such as 2M"
    )
    parser.add_argument(
        "--max-latency-ms",
        type=rate,
        metavar="MS",
        help="train no candidate whose .tflite file takes longer, as of --cost latency",
    )
    images.add_argument(
        "--mac-weight",
        type=float,
        help="validation accuracy that ten times the multiply-accumulates, or what --cost says, "
        "have to buy (default: 0.1)",
    )
    images.add_argument(
        "--distribution-strategy",
        choices=("none", "mirrored"),
        help="'mirrored' trains each candidate on all GPUs of this machine (default: none)",
    )
    parser.add_argument(
        "--max-seconds-per-trial",
        type=rate,
        metavar="SECONDS",
        help="a candidate that takes longer has failed (default: none does)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the results")
    _add_workers(parser)


def check(options: argparse.Namespace) -> None:
    """Raises the ValueError that says which options do not go together, if some do not."""
    if options.strategy == "paper" and options.max_candidates is not None:
        raise ValueError(
            f"--max-candidates {options.max_candidates}: is for --strategy bayesian; paper ends by "
            "itself, --keep-fraction and --candidates say when"
        )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    several = parser.add_argument_group(
        "on several workers",
        "Each is a process that trains one candidate at a time, on a GPU of its own where there "
        "are enough; a chief says which. The search is that of one process. All machines have to "
        "see the same --directory, where PROJECT.logs has what workers print.",
    )
    several.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="how many workers to start here (default: none, this process trains; with --chief "
        "none, with --worker 1)",
    )
    part = several.add_mutually_exclusive_group()
    part.add_argument(
        "--chief",
        type=address,
        metavar="HOST:PORT",
        help="where the chief, which starts here, listens for workers on other machines: without "
        "authentication or encryption (default: on this machine alone)",
    )
    part.add_argument(
        "--worker",
        type=address,
        metavar="HOST:PORT",
        help="start no chief here; the workers join the one that listens there",
    )
