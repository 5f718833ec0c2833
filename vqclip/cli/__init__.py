"""The command line: argv in, exit codes out; commands and the displays of progress."""
