"""cyphonic: an overlay network whose cloud holds no state in any process."""

__version__ = "0.1.0"
