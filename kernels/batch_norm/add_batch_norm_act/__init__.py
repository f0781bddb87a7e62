"""The sum that ends a pre-activation block, and the batch norm and activation that begin the next."""
