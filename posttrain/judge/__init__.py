"""Is an answer right? What a completion declares, what counts as a number, and math-verify in processes that end."""
