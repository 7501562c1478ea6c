"""How a call ends: exit codes, and the sentence on the way out."""

import errno
import os

import pytest

from benchmark import __main__ as command_line


@pytest.fixture
def ending(monkeypatch):
    """ending(error): the exit code of a call in whose midst it is raised."""

    def end(error):
        def call(*_):
            raise error

        monkeypatch.setattr(command_line, "_call", call)
        return command_line.main(["prepare"])

    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # else main starts this process anew
    return end


def test_a_full_disk_is_one_sentence_that_says_what_to_do(ending, capsys):
    assert ending(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "work/images.npy")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: work/images.npy: No space left on device;")
    assert "the same command goes on" in line


def test_an_interrupt_is_one_however_it_is_wrapped(ending, capsys):
    wrapped = RuntimeError("unexpected pos")
    wrapped.__context__ = KeyboardInterrupt()
    for error in (KeyboardInterrupt(), wrapped):
        assert ending(error) == 130
        assert "the same command goes on" in capsys.readouterr().err


def test_an_error_that_nobody_foresaw_is_not_hidden(ending):
    with pytest.raises(KeyError):
        ending(KeyError("x"))
