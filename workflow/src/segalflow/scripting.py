"""The frame of every workflow script: its log, its uncaught errors, its exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from segalflow.errors import SegalflowError


class _Tee:
    """Standard error that also reaches the log; a terminal's progress bar is not copied."""

    def __init__(self, terminal, log) -> None:
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        self.terminal.write(text)
        if "\r" not in text:
            self.log.write(text)
        return len(text)

    def flush(self) -> None:
        self.terminal.flush()
        self.log.flush()

    def isatty(self) -> bool:
        return self.terminal.isatty()

    def fileno(self) -> int:
        return self.terminal.fileno()


@contextlib.contextmanager
def logged(log: str | os.PathLike) -> Iterator[logging.Logger]:
    """Run a script's body with its log file.

    Messages of ``logging`` and warnings go to the log, standard error to both. A `SegalflowError` ends the script with
    one sentence and exit status 1; any other error leaves its traceback in the log too.

    Args:
        log: path of the rule's log file.
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        logger = logging.getLogger("segalflow")
        logger.setLevel(logging.INFO)
        logger.handlers = [logging.StreamHandler(handle)]
        logger.handlers[0].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").handlers = logger.handlers
        terminal, sys.stderr = sys.stderr, _Tee(sys.stderr, handle)
        try:
            yield logger
        except SegalflowError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            sys.stderr = terminal
