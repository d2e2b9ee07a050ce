"""`python -m smolforge.cli`, which launchers of several processes want."""

import sys

from smolforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
