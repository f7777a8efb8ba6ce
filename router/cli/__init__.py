"""The command line: one module per command group. Prints and exits; decides nothing."""
