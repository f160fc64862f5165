"""What the processor can do that changes a choice."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def has_aes(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether it has AES instructions (x86 ``aes``, ARM ``aes``): AES-GCM is then the fastest suite."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    return any(
        "aes" in line.partition(":")[2].split()
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
    )
