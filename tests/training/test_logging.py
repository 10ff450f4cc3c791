"""Progress as lines and as a bar."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest

from wasskit.training.logging import PlainReporter, Reporter, RichReporter, make_reporter


def play(reporter: Reporter) -> None:
    reporter.start(40, 10, 20)
    reporter.losses(1, 15, {"loss": 0.25, "term": 1.0})
    reporter.advance(20, 123.4, 0.25)
    reporter.evaluation(1, 20, {"test": {f"top1@{2**i}": 90.0 + i for i in range(10)}})
    reporter.message("[done]")
    reporter.stop()


def test_plain_lines() -> None:
    stream = io.StringIO()
    play(PlainReporter(stream, interval=0.0))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training for 2 epochs, 40 steps, from step 10"
    assert re.fullmatch(r"step 20/40, loss 0.25, 123.4 samples/s, 25% waiting for data, \d+:\d\d left", lines[1])
    assert lines[2].startswith("epoch 1, step 20: test top1@1 90, top1@2 91")
    assert lines[2].endswith("and 2 more")
    assert lines[3] == "[done]"


@pytest.mark.parametrize(
    ("start", "line"),
    [
        ((7, 0, 7), "training for 1 epoch, 7 steps"),
        ((1, 0, 1), "training for 1 epoch, 1 step"),
        ((123456, 0, 1000), "training for 123.5 epochs, 123456 steps"),
    ],
)
def test_one_is_no_plural(start: tuple[int, int, int], line: str) -> None:
    stream = io.StringIO()
    PlainReporter(stream).start(*start)
    assert stream.getvalue().splitlines() == [line]


def test_a_run_of_steps_speaks_of_no_epochs() -> None:
    from rich.console import Console

    plain, bar = io.StringIO(), io.StringIO()
    for reporter in (PlainReporter(plain, interval=0.0), RichReporter(Console(file=bar, force_terminal=True))):
        reporter.start(40, 0, None)
        reporter.advance(20, None, 0.0)
        reporter.evaluation(1, 20, {"test": {"uvp": 0.5}})
        reporter.stop()
    lines = plain.getvalue().splitlines()
    assert lines[0] == "training for 40 steps"
    assert lines[2] == "step 20: test uvp 0.5"
    assert "step 20: test uvp 0.5" in bar.getvalue()
    assert "epoch" not in plain.getvalue() + bar.getvalue()


def test_plain_lines_keep_their_distance() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, interval=60.0)
    reporter.start(100, 0, 10)
    for step in range(1, 100):
        reporter.advance(step, None, 0.0)
    assert len(stream.getvalue().splitlines()) == 1


def test_the_time_that_is_left_follows_steps_that_have_become_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand steps of a hundredth of a second, then twenty of ten."""
    stream, now = io.StringIO(), 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    reporter = PlainReporter(stream)
    reporter.start(1020, 0, None)
    for step in range(1, 1011):
        now += 0.01 if step <= 1000 else 10.0
        reporter.advance(step, None, 0.0)
    assert stream.getvalue().splitlines()[-1].endswith("1:40 left")


def test_bar() -> None:
    from rich.console import Console

    stream = io.StringIO()
    play(RichReporter(Console(file=stream, force_terminal=True, width=100)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "epoch 1/2" in text
    assert "20/40" in text
    assert "25% waiting" in text
    assert "[done]" in text


def test_reporter_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_reporter(quiet=True)) is Reporter
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(make_reporter(), PlainReporter)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(make_reporter(), RichReporter)


def test_importing_costs_nothing() -> None:
    code = "import sys, wasskit.training.logging; assert not {'rich', 'torch', 'tensorboard'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
