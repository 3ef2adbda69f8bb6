"""Whatever a person or another program can hand to posttrain, made wrong in every way that is known, and what is said.

Each module of `kinds` is one kind of input: valid inputs, and a strategy of cases made of them with the operators of
`faults`. `run` gives a case to the command in a fork and judges what came out. `python -m tests.surface`: a table.
"""
