import io

from rich.console import Console

from cyphonic.lab.demo import PIPE_WIDTH, PairResult, results_table
from cyphonic.lab.measure import Reached, RoundTrip, Transferred

GOOD = PairResult(
    "home-a",
    "home-b",
    first="relayed",
    settled="direct",
    endpoint="203.0.113.15:40000",
    why="a check of the punched path succeeded",
    reached=Reached("fd00::2", 0.04, 0.0615),
    round_trip=RoundTrip(0.00123, 0),
    transferred=Transferred(0.5, "c0ffee00" + "00" * 28),
)
BAD = PairResult("home-a", "six", failure="six does not answer", first="relayed")


def printed(*results: PairResult, width: int = PIPE_WIDTH) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(results_table(list(results), width))
    return file.getvalue()


def test_a_pair_shows_all_that_was_measured() -> None:
    row = next(line for line in printed(GOOD).splitlines() if "home-a → home-b" in line)
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
    row = next(line for line in printed(GOOD, width=80).splitlines() if "home-a → home-b" in line)
    for text in ("relayed", "direct", "62 ms", "1.23 ms", "160 Mbit/s", "equal"):
        assert text in row


def test_a_failed_pair_shows_how_far_it_came_and_why_no_further() -> None:
    row = next(line for line in printed(GOOD, BAD).splitlines() if "home-a → six" in line)
    assert "relayed" in row
    assert "FAILED: six does not answer" in row
    assert "equal" not in row
