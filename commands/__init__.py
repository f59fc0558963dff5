"""One file per group of commands. A command parses, builds a recipe or a case, and calls one function."""
