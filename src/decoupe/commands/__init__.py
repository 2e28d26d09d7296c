"""What ``decoupe`` does on the command line: a module for each command, and what they share."""
