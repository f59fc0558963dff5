"""The surroundings of a run: terminal, device, processes, and the command line of this program."""
