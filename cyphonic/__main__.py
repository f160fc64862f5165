"""``python -m cyphonic`` is the same as the ``cyphonic`` command."""

from cyphonic.cli import main

if __name__ == "__main__":
    main()
