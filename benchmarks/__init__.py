"""Speed and cost of altprop itself, as ratios measured in one run: python -m benchmarks NAME."""
