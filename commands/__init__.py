"""One file of commands for each group: parse, build a recipe or a case, call one function."""
