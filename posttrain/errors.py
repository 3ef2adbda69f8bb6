"""What a stage raises, and the exit code it turns into. Standard library only."""

EXIT_BUG = 1
EXIT_WRONG_INPUT = 2
EXIT_GATE = 3
EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h


class PosttrainError(Exception):
    """The root of every error that posttrain raises on purpose."""

    exit_code = EXIT_BUG


class InputError(PosttrainError, ValueError):
    """Params, data or a model that a person has to change.

    One message that says where the fault is, what was found, what was expected and what to do about it.
    """

    exit_code = EXIT_WRONG_INPUT

    def __init__(self, where: str, *, got: str, wanted: str, do: str) -> None:
        self.where, self.got, self.wanted, self.do = where, got, wanted, do
        super().__init__(visible(f"{where}\n  got     {got}\n  wanted  {wanted}\n  do      {do}"))


def visible(text: str) -> str:
    """Text for a terminal: what would move its cursor, colour it or turn its writing round is shown as an escape."""
    return "".join(
        character if character == "\n" or character.isprintable() else ascii(character)[1:-1] for character in text
    )


class GateError(PosttrainError):
    """The evaluation says that GRPO did not improve the model by the margin that params.yaml asks for."""

    exit_code = EXIT_GATE


class RetryError(PosttrainError):
    """Nothing is wrong with the input: the same command, run again, goes on or succeeds."""

    exit_code = EXIT_RETRY
