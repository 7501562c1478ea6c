import sys
import time

from analysis import progress


def test_a_log_file_has_whole_lines_of_progress(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOGGED", 0.02)
    with progress.progress_bar(10, "draw", "img") as bar:
        for _ in range(10):
            time.sleep(0.02)
            bar.update()
    print("the next line", file=sys.stderr)
    *bars, after, end = capsys.readouterr().err.split("\n")
    assert len(bars) >= 2
    assert all(line.startswith("draw: ") and "img/s" in line and "\r" not in line for line in bars)
    assert "100%" in bars[-1]
    assert (after, end) == ("the next line", "")


def test_work_that_is_done_at_once_leaves_no_line(capsys):
    with progress.progress_bar(10, "draw", "img") as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_a_name_cannot_command_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOGGED", 0.02)
    with progress.progress_bar(2, "\x1b[2Jdraw", "img") as bar:
        for _ in range(2):
            time.sleep(0.03)
            bar.update()
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert "draw" in shown
