"""The command `autoshrink`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from keras_autoshrink import lifeline, search_arguments
from keras_autoshrink.arguments import PROGRAM, build_parser
from tflite_export.command_line import fail
from tflite_export.runtime import native_output_silenced


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0, or 1 if a check failed.

    Raises:
        SystemExit: with 2 for bad input and 1 for a search or training that failed, after one
            line on standard error; with 130 after Ctrl-C.
    """
    # TensorFlow reads it when it is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    lifeline.hold()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "search":
            search_arguments.check(options)
            if options.workers or options.chief or options.worker:
                from keras_autoshrink.launcher import launch

                return launch(options, arguments)
        # The commands load TensorFlow, which takes seconds: not for --help or a typing error.
        # Each candidate is a graph of its own: TensorFlow would warn of its being traced.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        with native_output_silenced():  # TensorFlow announces its devices when it is imported
            run = _command(options.command)
        return run(options)
    except ModuleNotFoundError as error:
        reason = str(error)
        if error.name == "tensorflow":  # Keras, which looks for it where it is told nothing else
            reason = (
                "TensorFlow is not installed: pip install tensorflow, or set KERAS_BACKEND to jax: "
                "a search runs on either"
            )
        fail(PROGRAM, reason, 2)
    except (ValueError, TypeError, OSError) as error:
        fail(PROGRAM, str(error), 2)
    except RuntimeError as error:  # a search without survivors, a training that diverged
        fail(PROGRAM, str(error), 1)
    except KeyboardInterrupt:
        resumes = options.command in ("demo", "search", "train")
        resume = "; run it again, without --overwrite, to go on" if resumes else ""
        fail(PROGRAM, f"interrupted{resume}", 130)
    except Exception as error:
        # Whatever TensorFlow and Keras raise of their own: still one line for the user.
        fail(PROGRAM, f"{type(error).__name__}: {error}", 1)


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function of a subcommand, with no more loaded than it takes."""
    if name == "generate":  # with LiteRT alone, as on a phone
        from keras_autoshrink.generation import generate

        return generate
    from keras_autoshrink import commands

    run: Callable[[argparse.Namespace], int] = getattr(commands, name)
    return run


if __name__ == "__main__":
    sys.exit(main())
