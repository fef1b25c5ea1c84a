"""The command line, the experiments, the measuring and the store."""
