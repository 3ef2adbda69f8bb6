"""The page with curves, tables and samples."""
