"""Handling of Ctrl-C and SIGTERM: a command states what it leaves and how to continue, and ends within seconds."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from select import select

import typer

GRACE = 5.0  # seconds
_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable(stopped: str) -> Iterator[None]:
    """Run a block; Ctrl-C and SIGTERM (batch systems, containers) end it with one line and exit status 130 or 143.

    Python raises an exception only when a call into a library returns, and an index of PISA or Terrier may take hours.
    After :data:`GRACE` seconds, or at a second signal, the process ends anyway; partly written files are never opened.

    Args:
        stopped: The state that is left, and how to continue.
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    message = f"stopped: {stopped}\n"
    came: list[int] = []

    def stop(number: int, _frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    heeded = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]  # e.g. nohup
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        with _within_grace(message):
            yield
    except BaseException as ended:
        if not came:
            raise
        typer.secho(message, fg="red", err=True, nl=False)
        raise typer.Exit(128 + came[0]) from ended  # also if a library replaced it by its own error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _within_grace(message: str) -> Iterator[None]:
    """End the process if the block runs too long after a signal, or at a second signal."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    stderr = os.dup(2)  # silencing a library replaces stderr

    def watch() -> None:
        number = os.read(heard, 1)
        while number and number[0] not in _STOPPING:
            number = os.read(heard, 1)
        if not number or (select([heard], [], [], GRACE)[0] and not os.read(heard, 1)):
            return  # the block has ended
        with suppress(OSError):
            os.write(stderr, message.encode())
        os._exit(128 + number[0])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        watcher.join()
        os.close(heard)
        os.close(stderr)
