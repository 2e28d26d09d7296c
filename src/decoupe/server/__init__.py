"""The server behind ``decoupe serve``: safe by default, one model worker a device, and a page to use it by."""
