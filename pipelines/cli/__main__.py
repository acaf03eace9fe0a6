"""`python -m pipelines.cli`: the `vimctl` command."""

import sys

from pipelines.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
