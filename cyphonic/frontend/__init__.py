"""The frontend: UDP in, pipeline out, and back.  It holds queues, never state of a conversation."""
