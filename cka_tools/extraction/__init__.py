"""Documents → tokens → batches → activations → features."""
