from __future__ import annotations

from collections.abc import Iterator

from cyphonic.protocol.chance import Chance, fraction, integer


def scripted(*answers: bytes) -> Chance:
    answered: Iterator[bytes] = iter(answers)

    def chance(length: int) -> bytes:
        answer = next(answered)
        assert len(answer) == length
        return answer

    return chance


def test_a_fraction_is_at_least_zero_and_below_one() -> None:
    assert fraction(scripted(bytes(7))) == 0.0
    assert 0.999 < fraction(scripted(b"\xff" * 7)) < 1.0


def test_an_integer_has_its_bits_and_is_never_zero() -> None:
    assert integer(scripted(b"\xff" * 4), 32) == 2**32 - 1
    assert integer(scripted(b"\xff\xff"), 9) == 2**9 - 1
    assert integer(scripted(bytes(4), b"\0\0\0\5"), 32) == 5
