"""The trainer of SFT and what it is fed."""
