"""The model zoo: every model is a chain of blocks, or a cell and a readout."""
