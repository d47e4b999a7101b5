"""`python -m dashkit` is the `dashkit` command."""

import sys

from dashkit import stopping


def main() -> int:
    """The command, from its first moment: a signal is answered before anything large is imported."""
    stopping.catch(stopping.leave("dashkit"))
    from dashkit import cli

    return stopping.finish(cli.main())


if __name__ == "__main__":
    sys.exit(main())
