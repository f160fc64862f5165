"""A member of the overlay: the daemon behind ``cyphonic up``, and the commands that talk to it."""
