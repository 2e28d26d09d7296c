"""From pictures to mattes: preprocessing, prediction, results, files. No PyTorch here."""
