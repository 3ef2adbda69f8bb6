"""Problems: where they come from, and which of them stay."""
