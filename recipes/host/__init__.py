"""What a run meets on its machine: the terminal, the device, and how this program is called."""
