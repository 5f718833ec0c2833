"""The loop and what it is made of: crops, loss terms, steps of the optimizer. Knows no files, config or devices."""
