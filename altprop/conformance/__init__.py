"""The contract suite that every algorithm and task must pass, third-party ones too."""
