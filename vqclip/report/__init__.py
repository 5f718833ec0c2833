"""Pages and sheets: what is shown of runs and comparisons. Measures nothing."""
