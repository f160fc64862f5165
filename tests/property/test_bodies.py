"""Whatever its fields hold, a body survives the wire, and MessagePack without our types reads the same.

The modules of ``wire`` are imported here for the bodies that they define.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

import cyphonic.wire.certificate
import cyphonic.wire.direction
import cyphonic.wire.job
import cyphonic.wire.login
import cyphonic.wire.registration
import cyphonic.wire.relay
import cyphonic.wire.revocation
import cyphonic.wire.tunnel
from cyphonic.errors import MalformedError
from cyphonic.wire.codec import Body, decode, encode


def values(field: inspect.Type) -> st.SearchStrategy[Any]:
    """What a field of this type and these limits may hold."""
    match field:
        case inspect.StructType(cls=body_type, fields=fields):
            return st.builds(body_type, **{each.name: values(each.type) for each in fields})
        case inspect.BytesType(min_length=shortest, max_length=longest):
            return st.binary(min_size=shortest or 0, max_size=300 if longest is None else longest)
        case inspect.StrType(max_length=longest):
            return st.text(max_size=40 if longest is None else longest)
        case inspect.ListType(item_type=item, min_length=shortest, max_length=longest):
            return st.lists(values(item), min_size=shortest or 0, max_size=4 if longest is None else longest)
        case inspect.IntType(lt=limit):
            return st.integers(0, (2**64 if limit is None else limit) - 1)
        case inspect.BoolType():
            return st.booleans()
    raise NotImplementedError(field)


def bodies_of(base: type[Body]) -> Iterator[type[Body]]:
    for body_type in base.__subclasses__():
        if body_type.__module__.startswith("cyphonic.wire"):
            yield body_type
        yield from bodies_of(body_type)


BODIES = sorted(bodies_of(Body), key=lambda body_type: body_type.__name__)


def plain(value: Any) -> Any:
    """What a MessagePack reader without our types sees."""
    if isinstance(value, Body):
        return [plain(getattr(value, field)) for field in value.__struct_fields__]
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("body_type", BODIES, ids=lambda body_type: body_type.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_body_survives_the_wire_and_any_messagepack_reads_it(
    body_type: type[Body], data: st.DataObject
) -> None:
    body = data.draw(values(inspect.type_info(body_type)))
    assert decode(encode(body), body_type) == body
    assert msgpack.unpackb(encode(body)) == plain(body)


@pytest.mark.parametrize("body_type", BODIES, ids=lambda body_type: body_type.__name__)
@settings(max_examples=40, deadline=None)
@given(noise=st.binary(max_size=200))
def test_any_bytes_are_a_body_or_malformed(body_type: type[Body], noise: bytes) -> None:
    try:
        body = decode(noise, body_type)
    except MalformedError:
        return
    assert decode(encode(body), body_type) == body


@pytest.mark.parametrize("body_type", BODIES, ids=lambda body_type: body_type.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_proper_beginning_of_a_body_is_a_body(body_type: type[Body], data: st.DataObject) -> None:
    encoded = encode(data.draw(values(inspect.type_info(body_type))))
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(MalformedError, match="bad_body"):
        decode(encoded[:length], body_type)


def test_limits_hold_when_decoding() -> None:
    """msgspec checks limits only on the way in, so what we send is held to them by the reader."""
    too_long = msgspec.structs.replace(cyphonic.wire.revocation.PathRevocationAck(b"n" * 16), node_id=b"n" * 17)
    with pytest.raises(MalformedError):
        decode(encode(too_long), type(too_long))
