"""Is the declared answer right? The verifier has decided it; this only turns its verdict into a score."""

from posttrain.rewards.completion import Completion, Score


def accuracy(completion: Completion) -> Score:
    """1.0 if the completion declares an answer equal to the gold, 0.0 if not, None without a verdict.

    Source: open-r1's `accuracy`, which parses the gold again for each completion, has no time limit that holds outside
    the main thread, takes the first match anywhere in the text, and pays 1.0 elsewhere (`cosine`) for a gold that it
    cannot read. Here the answer is what posttrain/judge/answers.py says, and an unreadable gold never comes this far.
    """
    return None if completion.correct is None else float(completion.correct)
