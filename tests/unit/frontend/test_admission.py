import os

import pytest

from cyphonic.errors import DropError
from cyphonic.frontend.admission import Admission
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Service

KEY = bytes(range(32))


def datagram(kind: MessageType, body: int = 64, key: bytes = KEY) -> bytes:
    header = SignalingHeader(kind, 1, os.urandom(16), os.urandom(16))
    return append_macs(header.encode() + bytes(body), mac1_key(key))


def reason(data: bytes, service: Service = Service.NMS) -> str:
    with pytest.raises(DropError) as caught:
        Admission(service, KEY).admit(data)
    return caught.value.reason


def test_a_request_of_the_service_passes_without_its_macs() -> None:
    data = datagram(MessageType.KEEP_ALIVE)
    assert Admission(Service.NMS, KEY).admit(data) == data[:-32]


def test_a_login_is_exactly_1200_bytes() -> None:
    data = datagram(MessageType.LOGIN_REQUEST, 1200 - 40 - 32)
    assert Admission(Service.AS, KEY).admit(data) == data[:-32]
    assert reason(datagram(MessageType.LOGIN_REQUEST, 1127), Service.AS) == "bad_length"


@pytest.mark.parametrize("kind", [MessageType.KEY_DISTRIBUTION_ACK, MessageType.REVOCATION_ORDER])
@pytest.mark.parametrize("service", list(Service))
def test_internal_types_never_come_in_by_udp(kind: MessageType, service: Service) -> None:
    assert reason(datagram(kind), service) == "internal_type"


def test_each_service_refuses_the_others_requests_and_all_answers() -> None:
    assert reason(datagram(MessageType.KEEP_ALIVE), Service.AS) == "wrong_service"
    assert reason(datagram(MessageType.LOGIN_REQUEST, 1128)) == "wrong_service"
    assert reason(datagram(MessageType.ROUTE_DIRECTION)) == "wrong_service"


def test_what_is_wrong_is_counted_by_reason() -> None:
    good = datagram(MessageType.KEEP_ALIVE)
    assert reason(b"") == "bad_length"
    assert reason(good[:80]) == "bad_length"
    assert reason(good + bytes(1200)) == "bad_length"
    assert reason(b"\xff" + good[1:]) == "unknown_type"
    assert reason(good[:1] + b"\x02" + good[2:]) == "unknown_version"
    assert reason(datagram(MessageType.KEEP_ALIVE, key=bytes(32))) == "bad_mac1"


def test_a_flipped_bit_anywhere_before_mac2_is_refused() -> None:
    good = datagram(MessageType.LEAVE, 40)
    admission = Admission(Service.NMS, KEY)
    for position in range(len(good) - 16):
        broken = bytearray(good)
        broken[position] ^= 1
        with pytest.raises(DropError):
            admission.admit(bytes(broken))
