"""How the sprite world's commands run: logging, arguments, and one line instead of a traceback."""

import logging
import sys
import warnings
from collections.abc import Callable

import tyro
from transformers.utils import logging as transformers_logging

from animatediff.errors import UserError


def run(command: Callable[..., None]) -> None:
    """Run a function with the process's command line as its arguments.

    Raises:
        SystemExit: the command line is wrong (2), or something that the user can mend is (1, or the error's own).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    transformers_logging.set_verbosity_error()  # it says at each start that torchvision is not installed
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of its own deprecations
    try:
        tyro.cli(command, description=sys.modules[command.__module__].__doc__)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
