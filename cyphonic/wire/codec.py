"""Message bodies: MessagePack arrays, encoded and validated by msgspec.

A body is an array of its fields in the order in which the class lists them.  A newer version may add fields
at the end with a default: an older reader ignores them, a newer one fills them in.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, TypeVar

import msgspec

from cyphonic.errors import MalformedError

Identifier = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
EndpointBytes = Annotated[bytes, msgspec.Meta(min_length=6, max_length=18)]
UInt8 = Annotated[int, msgspec.Meta(ge=0, lt=2**8)]
UInt16 = Annotated[int, msgspec.Meta(ge=0, lt=2**16)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
UInt64 = Annotated[int, msgspec.Meta(ge=0)]
"""MessagePack itself has no larger integer."""


class Body(msgspec.Struct, frozen=True, array_like=True):
    """Base of every message body."""


BodyT = TypeVar("BodyT", bound=Body)

_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder(body_type: type[BodyT]) -> msgspec.msgpack.Decoder[BodyT]:
    return msgspec.msgpack.Decoder(body_type)


def encode(body: Body) -> bytes:
    """MessagePack bytes of a body."""
    return _encoder.encode(body)


def decode(data: bytes, body_type: type[BodyT]) -> BodyT:
    """The body in ``data``.  Raise MalformedError("bad_body") when it is not exactly one valid ``body_type``."""
    try:
        decoder: msgspec.msgpack.Decoder[BodyT] = _decoder(body_type)
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedError("bad_body") from None
