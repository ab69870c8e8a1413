"""python -m samunet, the same as the command samunet."""

import sys

from samunet.cli.entrance import main

if __name__ == "__main__":
    sys.exit(main())
