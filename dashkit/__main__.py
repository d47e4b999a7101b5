"""`python -m dashkit` is the `dashkit` command."""

import sys

from dashkit.cli import main

sys.exit(main())
