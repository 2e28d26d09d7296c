"""Sets of pictures with their truth on disk: finding, splitting and reading them. Imports no PyTorch."""
