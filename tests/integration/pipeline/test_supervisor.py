"""The supervisor with real child processes.  Its events end each test; nothing waits for a fixed time."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.supervisor import Child, ChildSpec, Supervisor

PREAMBLE = """
import os, signal, sys, time
from cyphonic.lifecycle import Lifeline, StopSignal
lifeline = Lifeline(os.environ)
"""
WORKS = (
    PREAMBLE
    + """
with StopSignal() as stop:
    lifeline.set_ready(True)
    while not stop.requested:
        lifeline.tick(time.monotonic())
        time.sleep(0.05)
    lifeline.stopping()
"""
)
STALLS = PREAMBLE + "lifeline.set_ready(True); lifeline.tick(0.0); signal.pause()"


def python(name: str, program: str, drain: float = 5.0) -> ChildSpec:
    return ChildSpec(name, [sys.executable, "-c", program], drain=drain)


class Watch:
    """Notes events, and acts on the first that satisfies a rule."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.pids: dict[str, list[int]] = {}
        self.codes: list[int] = []
        self.rules: list[tuple[tuple[str, str], Callable[[], object]]] = []

    def __call__(self, event: str, child: Child) -> None:
        self.events.append((child.spec.name, event))
        if event == "started" and child.process is not None:
            self.pids.setdefault(child.spec.name, []).append(child.process.pid)
        if event == "exited" and child.process is not None:
            self.codes.append(child.process.returncode)
        if self.rules and self.rules[0][0] == (child.spec.name, event):
            self.rules.pop(0)[1]()

    def when(self, name: str, event: str, action: Callable[[], object]) -> None:
        self.rules.append(((name, event), action))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_children_start_in_order_and_stop_in_the_opposite_one() -> None:
    watch = Watch()
    with StopSignal() as stop:
        supervisor = Supervisor([python("a", WORKS), python("b", WORKS)], notify=watch)

        def both(event: str, child: Child) -> None:
            watch(event, child)
            if supervisor.ready:
                stop.request()

        supervisor.notify = both
        assert supervisor.run(stop) == 0
    assert [name for name, event in watch.events if event == "started"] == ["a", "b"]
    assert [name for name, event in watch.events if event == "exited"] == ["b", "a"]
    assert watch.codes == [0, 0], "they drained, nobody was killed"
    assert all(gone(pid) for pids in watch.pids.values() for pid in pids)


def test_a_child_whose_loop_stalls_is_killed_and_started_again() -> None:
    watch = Watch()
    with StopSignal() as stop:
        watch.when("a", "stalled", lambda: watch.when("a", "ready", stop.request))
        assert Supervisor([python("a", STALLS, drain=0.0)], notify=watch).run(stop) == 0
    events = [event for _, event in watch.events]
    assert events == ["started", "ready", "stalled", "exited", "started", "ready", "exited"]
    assert watch.codes[0] == -signal.SIGKILL


def test_a_stopped_child_is_killed_too() -> None:
    watch = Watch()
    with StopSignal() as stop:
        watch.when("a", "ready", lambda: os.kill(watch.pids["a"][0], signal.SIGSTOP))
        watch.when("a", "stalled", lambda: watch.when("a", "ready", stop.request))
        Supervisor([python("a", WORKS)], notify=watch).run(stop)
    assert len(watch.pids["a"]) == 2


def test_a_killed_child_is_started_again_under_a_new_pid() -> None:
    watch = Watch()
    with StopSignal() as stop:
        watch.when("a", "ready", lambda: os.kill(watch.pids["a"][0], signal.SIGKILL))
        watch.when("a", "ready", stop.request)
        assert Supervisor([python("a", WORKS)], notify=watch).run(stop) == 0
    assert len(set(watch.pids["a"])) == 2


def test_a_child_that_fails_before_it_was_ready_ends_all_with_its_exit_code() -> None:
    watch = Watch()
    with StopSignal() as stop:
        children = [python("good", WORKS), python("bad", "import sys; sys.exit(4)")]
        assert Supervisor(children, notify=watch).run(stop) == 4
    assert watch.events[-1] == ("good", "exited")


def test_a_child_that_the_machine_cannot_start_now_is_started_later_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch()
    failures = iter([errno.EMFILE, errno.EAGAIN])
    start = subprocess.Popen

    def scarce(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
        number = next(failures, 0)
        if number:
            raise OSError(number, os.strerror(number))
        return start(argv, **options)

    monkeypatch.setattr(subprocess, "Popen", scarce)
    with StopSignal() as stop:
        watch.when("b", "ready", stop.request)
        assert Supervisor([python("b", WORKS)], notify=watch).run(stop) == 0
    assert [event for _, event in watch.events][:4] == ["not-started", "not-started", "started", "ready"]


def test_a_child_that_ignores_sigterm_is_killed_after_its_drain_time() -> None:
    watch = Watch()
    stubborn = WORKS.replace("while not stop.requested", "while True")
    with StopSignal() as stop:
        watch.when("a", "ready", stop.request)
        Supervisor([python("a", stubborn, drain=0.1)], notify=watch).run(stop)
    assert watch.codes == [-signal.SIGKILL]


def test_nothing_starts_before_the_gate_is_ready(tmp_path: Path) -> None:
    watch, opened = Watch(), tmp_path / "opened"
    checks: list[bool] = []

    def check() -> bool:
        checks.append(("next", "started") in watch.events)
        if len(checks) == 3:
            opened.touch()
        return opened.exists()

    gate = ChildSpec("gate", ["sleep", "60"], ticks=False, check=check, gate=True)
    with StopSignal() as stop:
        watch.when("next", "ready", stop.request)
        Supervisor([gate, python("next", WORKS)], notify=watch).run(stop)
    assert checks[:3] == [False, False, False]


def test_children_die_with_a_killed_supervisor() -> None:
    read, write = os.pipe()
    child = os.fork()
    if (
        child == 0
    ):  # a supervisor that kills itself as soon as its child is ready; the pipe closes with the last of them
        watch = Watch()
        os.set_inheritable(write, True)
        with StopSignal() as stop:
            holder = [
                "sh",
                "-c",
                f"exec {sys.executable} -c 'import os,signal; os.write({write}, b\"x\"); signal.pause()'",
            ]
            specs = [python("a", WORKS), ChildSpec("b", holder, ticks=False)]
            watch.when("a", "ready", lambda: os.kill(os.getpid(), signal.SIGKILL))
            Supervisor(specs, notify=watch).run(stop)
        os._exit(1)
    os.close(write)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    while os.read(read, 16):
        pass  # ends only when no process holds the other end
    os.close(read)


def test_the_supervisor_itself_is_ready_when_all_its_children_are() -> None:
    watch = Watch()
    read, write = os.pipe()
    lifeline = Lifeline({"CYPHONIC_TICK_FD": str(write)})
    with StopSignal() as stop:
        supervisor = Supervisor([python("a", WORKS)], notify=watch)

        def stop_when_told(event: str, child: Child) -> None:
            watch(event, child)
            if event == "ready":
                os.kill(watch.pids["a"][0], signal.SIGKILL)
            if event == "exited":
                stop.request()

        supervisor.notify = stop_when_told
        supervisor.run(stop, lifeline)
    told = os.read(read, 4096)
    os.close(read)
    os.close(write)
    assert b"+-" in told.replace(b".", b"")
