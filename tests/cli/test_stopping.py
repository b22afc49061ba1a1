import shutil
import signal
import subprocess
import sys
import time

import pytest

from pyterrier_merge.cli.stopping import stoppable

COMMAND = """
import sys, time
import typer
from pyterrier_merge.cli import stopping
from pyterrier_merge.cli.console import reported_errors

def command():
    with reported_errors(stopped="all is kept"):
        {body}

typer.run(command)
"""
WAITS = "print('begun', flush=True); time.sleep(60)"
IN_A_LIBRARY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # C, which ends after minutes


def stopped(body, *signals, wait=0.3):
    """Run a command, send it signals once it has said that it has begun, and return status, stderr and seconds."""
    script = COMMAND.format(body=body.replace("\n", "\n        "))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True, start_new_session=True)
    said = []  # the first start of Java on a machine tells of its download before
    while not said or not said[-1].endswith("begun\n"):
        said.append(process.stdout.readline())
        assert said[-1], (said, process.communicate())
    start = time.monotonic()
    for number in signals:
        time.sleep(wait)
        process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr, time.monotonic() - start


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_what_is_kept(number, status):
    assert stopped(WAITS, number)[:2] == (status, "stopped: all is kept\n")


def test_a_signal_ends_a_command_that_waits_for_a_library():
    body = f"stopping.GRACE = 0.5\nprint('begun', flush=True)\n{IN_A_LIBRARY}"
    status, stderr, seconds = stopped(body, signal.SIGINT)
    assert (status, stderr) == (130, "stopped: all is kept\n")
    assert seconds < 30


def test_a_library_that_is_silenced_does_not_silence_the_end():
    silence = "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 2)"
    body = f"stopping.GRACE = 0.5\nprint('begun', flush=True)\n{silence}\n{IN_A_LIBRARY}"
    assert stopped(body, signal.SIGINT)[:2] == (130, "stopped: all is kept\n")


def test_a_second_signal_ends_a_command_at_once():
    body = f"stopping.GRACE = 50\nprint('begun', flush=True)\n{IN_A_LIBRARY}"
    status, stderr, seconds = stopped(body, signal.SIGINT, signal.SIGINT)
    assert (status, stderr) == (130, "stopped: all is kept\n")
    assert seconds < 30


def test_an_error_that_a_library_makes_of_the_signal_is_none():
    body = "try:\n    WAITS\nexcept KeyboardInterrupt as error:\n    raise RuntimeError('a worker died') from error"
    assert stopped(body.replace("WAITS", WAITS), signal.SIGINT)[:2] == (130, "stopped: all is kept\n")


def test_a_command_that_ends_by_itself_leaves_signals_as_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stoppable("all"):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    with pytest.raises(ValueError, match="own"), stoppable("all"):
        raise ValueError("own")
    with pytest.raises(KeyboardInterrupt), stoppable("all"):
        raise KeyboardInterrupt  # nobody sent a signal
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.skipif(shutil.which("java") is None, reason="engine='terrier' needs Java")
def test_java_does_not_take_the_signals():
    body = f"from pyterrier_merge.retrieval.lexical.engines import start_java\nstart_java()\n{WAITS}"
    assert stopped(body, signal.SIGINT)[1].endswith("stopped: all is kept\n")
