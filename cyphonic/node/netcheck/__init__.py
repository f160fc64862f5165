"""``cyphonic netcheck``: what this network lets through, found out by asking relays."""
