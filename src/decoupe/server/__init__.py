"""The server of ``decoupe serve``: safe by default, a model worker for each device, and a page to use it."""
