"""Parts that more than one model uses; each is imported from its own module."""
