"""`python -m posttrain COMMAND`: the command with the code of the working folder, whatever the environment holds."""

from posttrain.cli import program

if __name__ == "__main__":
    program()
