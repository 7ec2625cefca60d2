"""Training: one readable loop a file, no formulas. Knows no store and no web."""
