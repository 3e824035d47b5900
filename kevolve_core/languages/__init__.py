"""Languages that several targets share; one that a single target has lives in its backend."""
