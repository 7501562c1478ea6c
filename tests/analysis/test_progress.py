import sys
import time

from analysis import progress


def drawn(name, capsys, monkeypatch, interval):
    """What a log file has of ten steps of 20 ms with a line every `interval` seconds, and of a line after them."""
    monkeypatch.setattr(progress, "LOGGED", interval)
    with progress.progress_bar(10, name, "img") as bar:
        for _ in range(10):
            time.sleep(0.02)
            bar.update()
    print("the next line", file=sys.stderr)
    return capsys.readouterr().err


def test_a_log_file_has_whole_lines_of_progress(capsys, monkeypatch):
    *bars, after, end = drawn("draw", capsys, monkeypatch, 0.02).split("\n")
    assert len(bars) >= 2
    assert all(line.startswith("draw: ") and "img/s" in line and "\r" not in line for line in bars)
    assert "100%" in bars[-1]
    assert (after, end) == ("the next line", "")


def test_work_that_is_done_before_its_first_line_leaves_none(capsys, monkeypatch):
    assert drawn("draw", capsys, monkeypatch, 10) == "the next line\n"


def test_a_name_cannot_command_the_terminal(capsys, monkeypatch):
    shown = drawn("\x1b[2Jdraw", capsys, monkeypatch, 0.02)
    assert "\x1b" not in shown
    assert "draw" in shown
