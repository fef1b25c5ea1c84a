"""What a user runs first: the spectrum, theory's verdicts, predicted costs, and which solver to use."""
