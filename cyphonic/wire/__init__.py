"""Bytes to values and back.  No sockets, no clocks, no keys: see ``docs/protocol.md`` for what they mean."""
