import io
import itertools
import threading
from collections import Counter
from contextlib import suppress

from rich.console import Console

from cyphonic.lab.demo import PIPE_WIDTH, PairResult, results_table, settled_matrix, side_by_side
from cyphonic.lab.measure import Reached, RoundTrip, Transferred

GOOD = PairResult(
    "port",
    "addr",
    first="relayed",
    settled="direct",
    endpoint="203.0.113.15:40000",
    why="a check of the punched path succeeded",
    reached=Reached("fd00::2", 0.04, 0.0615),
    round_trip=RoundTrip(0.00123, 0),
    transferred=Transferred(0.5, "c0ffee00" + "00" * 28),
)
BAD = PairResult("port", "six", failure="six does not answer", first="relayed")


def printed(*results: PairResult, width: int = PIPE_WIDTH) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(results_table(list(results), width))
    return file.getvalue()


def test_a_pair_shows_all_that_was_measured() -> None:
    row = next(line for line in printed(GOOD).splitlines() if "port → addr" in line)
    for text in (
        "relayed",
        "direct 203.0.113.15:40000",
        "62 ms",
        "1.23 ms",
        "0.50 s, 160 Mbit/s",
        "equal c0ffee00",
    ):
        assert text in row


def test_a_narrow_terminal_shows_every_pair_in_one_line_of_figures() -> None:
    row = next(line for line in printed(GOOD, width=80).splitlines() if "port → addr" in line)
    for text in ("relayed", "direct", "62 ms", "1.23 ms", "160 Mbit/s", "equal"):
        assert text in row


def test_a_failed_pair_shows_how_far_it_came_and_why_no_further() -> None:
    row = next(line for line in printed(GOOD, BAD).splitlines() if "port → six" in line)
    assert "relayed" in row
    assert "FAILED: six does not answer" in row
    assert "equal" not in row


def test_pairs_run_side_by_side_unless_they_share_something() -> None:
    pairs = list(itertools.permutations("abcd", 2))
    lock, running, most = threading.Lock(), Counter[str](), 0
    together = threading.Barrier(2)

    def work(first: str, second: str) -> tuple[str, str]:
        nonlocal most
        with lock:
            running.update((first, second))
            most = max(most, running.total())
            assert max(running.values()) == 1
        if {first, second} in ({"a", "b"}, {"c", "d"}) and not together.broken:
            with suppress(threading.BrokenBarrierError):
                together.wait(5)  # for the other pair, which must be running, too
        with lock:
            running.subtract((first, second))
        return first, second

    done = list(side_by_side(pairs, lambda *pair: frozenset(pair), work, at_once=2))
    assert sorted(done) == sorted(pairs)
    assert most == 4


def test_the_matrix_shows_the_first_path_where_another_was_settled_on() -> None:
    back = PairResult("addr", "port", first="relayed", settled="relayed")
    assert settled_matrix([GOOD, back]).splitlines() == [
        "| from \\ to | port | addr |",
        "| --- | --- | --- |",
        "| **port** | – | relayed → direct |",
        "| **addr** | relayed | – |",
    ]
