import pytest

from cyphonic.admin.enrolment import duration, moment, state_of
from cyphonic.state.registry import EnrolmentKey


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("7d", 604800), ("never", None)]
)
def test_a_duration_has_one_unit(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "-1h", "1.5h", "1h30m", "1w", "१h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="none of"):
        duration(text)


def _key(uses: int | None = 1, used: int = 0, expires: float | None = None, revoked: bool = False) -> EnrolmentKey:
    return EnrolmentKey("00", "", uses, used, 0.0, expires, revoked)


def test_the_state_of_a_key_says_why_it_no_longer_works() -> None:
    assert state_of(_key(), 10.0) == "usable"
    assert state_of(_key(used=1), 10.0) == "used"
    assert state_of(_key(uses=None, used=99), 10.0) == "usable"
    assert state_of(_key(expires=10.0), 10.0) == "expired"
    assert state_of(_key(used=1, revoked=True), 10.0) == "revoked"


def test_times_of_day_are_told_in_utc() -> None:
    assert moment(0.0) == "1970-01-01 00:00Z"
    assert moment(None) == "never"
