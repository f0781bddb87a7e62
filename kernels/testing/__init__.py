"""What tests and benchmarks of the ops share: OpSpecs, the judge, sample shapes, the compile report."""
