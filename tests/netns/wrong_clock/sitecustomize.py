"""On PYTHONPATH, this makes a Python process believe in another time of day: CYPHONIC_TEST_CLOCK seconds off."""

import os
import time

_right = time.time
_off = float(os.environ.get("CYPHONIC_TEST_CLOCK", "0"))


def _wrong() -> float:
    return _right() + _off


time.time = _wrong
