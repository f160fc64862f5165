from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from cyphonic.node import bugreport as module
from cyphonic.node.bugreport import bugreport, strike_out
from cyphonic.node.config import NodeConfig
from cyphonic.node.statefile import KnownCloud, NodeState, StateFile
from cyphonic.wire.endpoint import Endpoint

CLOUD = KnownCloud("main", "cyphonic.internal", (Endpoint("203.0.113.10", 7701),), bytes(32), bytes(32))
STATE = NodeState(os.urandom(32), CLOUD, "alice", "alice.main.cyphonic.internal")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeConfig:
    """A node that has joined and is down, knows no relay, and whose machine has none of the programs."""
    monkeypatch.setattr(module, "COMMANDS", ())
    config = NodeConfig(state_dir=tmp_path / "state", run_dir=tmp_path / "run")
    StateFile(config.state_dir).save(STATE)
    secret = base64.b64encode(STATE.secret).decode()
    config.log_file.write_text(f"event=started name=alice.main.cyphonic.internal\nevent=leak secret={secret}\n")
    return config


def test_a_report_of_a_node_that_is_down_says_so_and_goes_on(config: NodeConfig) -> None:
    text = bugreport(config, None, mask=False, tell=lambda _: None)
    assert "this node is not up" in text
    assert "no relay is known" in text
    assert "event=started name=alice" in text


@pytest.mark.parametrize("mask", [False, True])
def test_it_never_holds_the_secret_even_where_a_log_does(config: NodeConfig, mask: bool) -> None:
    text = bugreport(config, None, mask=mask, tell=lambda _: None)
    assert base64.b64encode(STATE.secret).decode() not in text
    assert STATE.secret.hex() not in text
    assert "event=leak" in text
    assert ("alice" in text) is not mask


def test_lines_that_are_called_secret_are_struck_out_whatever_they_hold() -> None:
    text = strike_out('enrolment_key = "abc"\npassword_file = "/x"\n"secret": "def",\nname = "alice"', None)
    assert "abc" not in text
    assert "def" not in text
    assert 'name = "alice"' in text


def test_the_secret_is_struck_out_in_every_spelling() -> None:
    spellings = [STATE.secret.hex(), STATE.secret.hex().upper(), base64.b64encode(STATE.secret).decode()]
    text = strike_out(" ".join(spellings), STATE)
    assert not any(spelling in text for spelling in spellings)
