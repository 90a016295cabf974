"""Records of runs: key, provenance, atomic store, and reading everything back as one data frame."""
