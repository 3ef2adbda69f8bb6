"""`python -m posttrain COMMAND`: the command with the code of the working folder, whatever the environment holds."""

import sys

from posttrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
