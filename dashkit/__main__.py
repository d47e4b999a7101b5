"""`python -m dashkit` is the `dashkit` command.  Layer 5."""

import sys

from dashkit.cli import main

sys.exit(main())
