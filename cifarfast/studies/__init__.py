"""Many runs: which recipes there are, and their reproduction with several seeds."""
